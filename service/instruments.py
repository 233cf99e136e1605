"""Registries of metrics: the prefix of all names, labels that a process's samples share, snapshots that can be sent."""

import bisect
import threading
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import HistogramMetricFamily, Metric

PREFIX = "neurodial_"
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds


@dataclass(frozen=True)
class Described:
    """One metric as the documentation lists it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


class WeightedHistogram:
    """A histogram that takes many equal observations at once, as the rows of one step make them; one writer."""

    def __init__(self, name: str, documentation: str, buckets: Items[float]) -> None:
        self._name, self._documentation, self._bounds = name, documentation, tuple(buckets)
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float, count: int) -> None:
        """Adds `count` observations of a value."""
        with self._lock:
            self._counts[bisect.bisect_left(self._bounds, value)] += count
            self._sum += value * count

    def collect(self) -> Iterable[Metric]:
        """For a registry."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        reached, buckets = 0, []
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            reached += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(reached)))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=total)


class Instruments:
    """A registry of its own, whose metrics share the prefix and some constant labels.

    Args:
        constant: labels that every sample gets when it is read.
    """

    def __init__(self, constant: Mapping[str, str]) -> None:
        self.described: list[Described] = []
        self._constant = dict(constant)
        self._registry = CollectorRegistry()

    def snapshot(self) -> list[Metric]:
        """All metrics as they are now: plain data that can be pickled."""
        families = []
        for family in self._registry.collect():
            copy = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                if not sample.name.endswith("_created"):  # the time of a replica's start, once for every series
                    copy.add_sample(sample.name, self._constant | sample.labels, sample.value)
            families.append(copy)
        return families

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A new counter; its name ends in `_total`."""
        return Counter(self._describe(name, "counter", text, labels), text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A new gauge."""
        return Gauge(self._describe(name, "gauge", text, labels), text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, buckets: Items[float], *labels: str) -> Histogram:
        """A new histogram."""
        full = self._describe(name, "histogram", text, labels)
        return Histogram(full, text, labels, buckets=buckets, registry=self._registry)

    def weighted(self, name: str, text: str, buckets: Items[float]) -> WeightedHistogram:
        """A new histogram that takes many observations at once."""
        histogram = WeightedHistogram(self._describe(name, "histogram", text, ()), text, buckets)
        self._registry.register(histogram)
        return histogram

    def _describe(self, name: str, kind: str, text: str, labels: tuple[str, ...]) -> str:
        full = PREFIX + name
        self.described.append(Described(full, kind, (*self._constant, *labels), text))
        return full
