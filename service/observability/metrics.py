"""What is measured of the HTTP application; `engine.metrics` has what is measured of an engine."""

from neurodial.service.instruments import LATENCIES, Instruments

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics(Instruments):
    """What the HTTP application measures."""

    def __init__(self) -> None:
        super().__init__({})
        by_route = "method", "route"
        self._requests = self.counter(
            "http_requests_total",
            "Requests answered, by route template and status; 499 is a client that hung up.",
            *by_route,
            "status",
        )
        self._errors = self.counter(
            "http_errors_total", "Requests answered with an error, by its code.", "route", "code"
        )
        self._seconds = self.histogram(
            "http_request_duration_seconds", "Time to the end of the answer, streams included.", LATENCIES, *by_route
        )
        self.open = self.gauge("http_requests_in_progress", "Requests that are being answered.")
        self._retries = self.counter(
            "request_retries_total", "Requests given to another replica because that which had them died."
        )

    def answered(self, method: str, route: str, status: int, seconds: float, code: str | None) -> None:
        """Counts one answer.

        Args:
            method: of the request; what HTTP does not define counts as `other`.
            route: the route's template, such as `/v1/models/{model}`, or `unmatched`.
            status: of the answer.
            seconds: from the request's arrival to the answer's last byte.
            code: of the error that was answered, if one was.
        """
        known = method if method in METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)
        if code is not None:
            self._errors.labels(route, code).inc()

    def retried(self, count: int) -> None:
        """Counts requests that go to another replica."""
        self._retries.inc(count)
