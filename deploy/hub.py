"""One place that knows the metrics of all replicas: each pushes its own there, and `/metrics` shows them all."""

import logging
import threading
import uuid
from collections.abc import Callable
from typing import Any

from prometheus_client.metrics_core import Metric
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from neurodial.control.errors import NeurodialError, Unavailable
from neurodial.service.merging import Ledger, MetricsHub, Push, Reply, exposition

logger = logging.getLogger(__name__)

HUB = "hub"

_PERIOD_S = 1.0
_TIMEOUT_S = 2.0
_ONGOING = 1000


class Hub:
    """The deployment's one replica; see `MetricsHub`. One that takes its place starts from what the others remember."""

    def __init__(self) -> None:
        self._hub = MetricsHub()

    async def push(self, push: Push, version: int) -> Reply:
        """See `MetricsHub.push`."""
        return self._hub.push(push, version)

    async def restore(self, ledger: Ledger) -> None:
        """See `MetricsHub.restore`."""
        self._hub.restore(ledger)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """See `MetricsSource.page`."""
        return exposition(self._hub.metrics(), accept)


def hub_deployment(logs: LoggingConfig) -> serve.Application:
    """The hub, to be bound to every other deployment."""
    deployment: Any = serve.deployment(
        Hub,
        name=HUB,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_ONGOING,
        graceful_shutdown_timeout_s=0.0,
        logging_config=logs,
    )
    bound: serve.Application = deployment.bind()
    return bound


class HubMetrics:
    """What `/metrics` shows on Ray; see `MetricsSource`.

    Args:
        hub: its deployment.
    """

    def __init__(self, hub: DeploymentHandle[Any]) -> None:
        self._hub = hub

    async def page(self, accept: str) -> tuple[bytes, str]:
        """See `MetricsSource.page`."""
        try:
            result: tuple[bytes, str] = await self._hub.page.remote(accept)
        except (RayError, RayServeException) as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, NeurodialError):
                raise cause from error
            raise Unavailable("the metrics cannot be reached", hint="try again in a moment") from error
        return result


class Reporter:
    """Pushes what this replica measures, once a second, on a thread of its own.

    Args:
        hub: its deployment.
        measure: gives everything that was measured since the start.
    """

    def __init__(self, hub: DeploymentHandle[Any], measure: Callable[[], list[Metric]]) -> None:
        context = serve.get_replica_context()
        self._replica = f"{context.deployment}#{context.replica_tag}"
        self._source = uuid.uuid4().hex
        self._hub, self._measure = hub, measure
        self._number = 0
        self._ledger = Ledger()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Pushes once more and stops."""
        self._stopped.set()
        self._thread.join(_TIMEOUT_S)

    def _loop(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopped.wait(_PERIOD_S)
            try:
                self._push()
            except Exception as error:  # the hub is being replaced, or everything stops: the next push has it all
                logger.debug("metrics could not be pushed: %s", error)

    def _push(self) -> None:
        self._number += 1
        push = Push(self._source, self._replica, self._number, self._measure())
        reply = self._call("push", push, self._ledger.version)
        if reply.version < self._ledger.version:  # a new hub
            self._call("restore", self._ledger)
            reply = self._call("push", push, self._ledger.version)
        if reply.ledger is not None:
            self._ledger = reply.ledger

    def _call(self, method: str, *args: Any) -> Any:
        return getattr(self._hub, method).remote(*args).result(timeout_s=_TIMEOUT_S)
