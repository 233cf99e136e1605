"""The page of metrics: every replica's samples, each with the replica's name as a label. Nothing is added up."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric


class MetricsSource(Protocol):
    """Where `/metrics` comes from."""

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The exposition that suits an `Accept` header, and its content type.

        Raises:
            Unavailable: while nobody knows it.
        """


class _Collected:
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def exposition(replicas: Mapping[str, Iterable[Metric]], accept: str) -> tuple[bytes, str]:
    """Text in Prometheus' format, or in OpenMetrics' where a client accepts that, and the content type.

    Args:
        replicas: what each has measured, by the name that its samples get as the label `replica`.
        accept: the client's header.
    """
    families: dict[str, Metric] = {}
    for replica, metrics in replicas.items():
        for family in metrics:
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
    encode, content_type = choose_encoder(accept)
    return encode(_Collected([families[name] for name in sorted(families)])), content_type


class LocalMetrics:
    """The metrics of one process; see `MetricsSource`.

    Args:
        sources: each gives all that it has measured.
        replica: the label.
    """

    def __init__(self, *sources: Callable[[], list[Metric]], replica: str = "local") -> None:
        self._sources, self._replica = sources, replica

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The exposition; see `MetricsSource.page`."""
        return exposition({self._replica: [family for source in self._sources for family in source()]}, accept)
