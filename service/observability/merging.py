"""One page of metrics for many replicas: labelled, and with sums that never go backwards.

Every replica pushes everything that it has measured, again and again. When one is silent for too long, its counters and
histograms are added to those of `replica="ended"` in the same moment in which its own series disappear, so that no sum
over replicas changes by its end. What it measures should it come back is counted from there, under a new label.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from neurodial.control.errors import Unavailable

ENDED = "ended"

_CUMULATIVE = frozenset({"counter", "histogram"})
_REMEMBERED = 32  # replicas whose end was taken for granted and that would be recognised if they came back

Key = tuple[str, str, tuple[tuple[str, str], ...]]  # family, sample, labels
Totals = dict[Key, float]


class MetricsSource(Protocol):
    """Where `/metrics` comes from."""

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The exposition that suits an `Accept` header, and its content type.

        Raises:
            Unavailable: while it would not be complete.
        """


@dataclass(frozen=True)
class Push:
    """What a replica has measured since its start.

    Attributes:
        source: unique to the process.
        replica: what it is called in labels.
        number: of the push; earlier ones that arrive later are ignored.
        metrics: everything.
    """

    source: str
    replica: str
    number: int
    metrics: list[Metric]


@dataclass(frozen=True)
class Gone:
    """A replica that has been counted as ended: its last totals, and the number of labels that it has had."""

    replica: str
    generation: int
    totals: Totals


@dataclass(frozen=True)
class Ledger:
    """What a hub knows beyond the last pushes. Every replica keeps a copy, from which a new hub starts.

    Attributes:
        version: grows with every change.
        families: kind and help of each metric of `totals`.
        totals: sums over the replicas that have ended.
        gone: the latest of these, by source.
        generations: of the replicas that live, by source.
    """

    version: int = 0
    families: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    totals: Totals = field(default_factory=dict)
    gone: Mapping[str, Gone] = field(default_factory=dict)
    generations: Mapping[str, tuple[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What a hub answers to a push.

    Attributes:
        version: of its ledger. Where the replica's copy is newer, the push was not taken: the hub wants the copy first.
        ledger: where the hub's is newer.
    """

    version: int
    ledger: Ledger | None = None


@dataclass
class _Live:
    push: Push
    seen: float


class MetricsHub:
    """Keeps the last push of every replica and the sums of those that ended.

    Args:
        gone_after_s: silence after which a replica counts as ended.
        settle_s: seconds after the start during which there is no page: the replicas are still bringing what they know.
            As long as one is missing of which an earlier hub knew, there is none until `gone_after_s`.
        clock: seconds.
    """

    def __init__(
        self, gone_after_s: float = 10.0, settle_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gone_after_s, self._settle_s, self._clock = gone_after_s, settle_s, clock
        self._started = clock()
        self._ledger = Ledger()
        self._live: dict[str, _Live] = {}

    def push(self, push: Push, version: int = 0) -> Reply:
        """Takes what a replica has measured.

        Args:
            push: from it.
            version: of the ledger that it keeps.
        """
        if version > self._ledger.version:
            return Reply(self._ledger.version)
        now = self._clock()
        known = self._live.get(push.source)
        if known is None:
            self._welcome(push)
            self._live[push.source] = _Live(push, now)
        elif push.number > known.push.number:
            self._live[push.source] = _Live(push, now)
        self._bury(now)
        return Reply(self._ledger.version, self._ledger if version < self._ledger.version else None)

    def restore(self, ledger: Ledger) -> None:
        """Takes over what a replica remembers of an earlier hub."""
        own = self._ledger
        if ledger.version > own.version:
            self._ledger = replace(ledger, generations={**own.generations, **ledger.generations})

    def metrics(self) -> list[Metric]:
        """Everything, with a label `replica`.

        Raises:
            Unavailable: in the first moments.
        """
        now = self._clock()
        if not self._is_settled(now):
            raise Unavailable("the metrics of the replicas are still being collected", hint="try again in a moment")
        self._bury(now)
        merged: dict[str, Metric] = {}
        for source, live in self._live.items():
            label = _label(*self._ledger.generations[source])
            _add(merged, live.push.metrics, label, self._before(source))
        for (name, sample, labels), value in self._ledger.totals.items():
            kind, text = self._ledger.families[name]
            merged.setdefault(name, Metric(name, text, kind)).add_sample(
                sample, dict(labels) | {"replica": ENDED}, value
            )
        return [merged[name] for name in sorted(merged)]

    def _is_settled(self, now: float) -> bool:
        age = now - self._started
        is_complete = self._ledger.generations.keys() <= self._live.keys()
        return age >= self._gone_after_s or (age >= self._settle_s and is_complete)

    def _welcome(self, push: Push) -> None:
        """Gives a replica a label that no other process has had."""
        ledger = self._ledger
        if push.source in ledger.generations:  # an earlier hub has given it one
            return
        others = [(gone.replica, gone.generation) for gone in ledger.gone.values()] + list(ledger.generations.values())
        generation = 1 + max((number for replica, number in others if replica == push.replica), default=0)
        generations = {**ledger.generations, push.source: (push.replica, generation)}
        self._ledger = replace(ledger, version=ledger.version + 1, generations=generations)

    def _before(self, source: str) -> Totals:
        """What `ended` holds of a replica that has come back."""
        gone = self._ledger.gone.get(source)
        return gone.totals if gone else {}

    def _bury(self, now: float) -> None:
        for source, live in list(self._live.items()):
            if now - live.seen >= self._gone_after_s:
                del self._live[source]
                self._end(source, live.push)
        ledger = self._ledger
        if now - self._started >= self._gone_after_s and ledger.generations.keys() > self._live.keys():
            generations = {source: name for source, name in ledger.generations.items() if source in self._live}
            self._ledger = replace(
                ledger, version=ledger.version + 1, generations=generations
            )  # ended with the last hub

    def _end(self, source: str, push: Push) -> None:
        ledger, before = self._ledger, self._before(source)
        families, totals = dict(ledger.families), dict(ledger.totals)
        last = dict(_cumulative(push.metrics))
        for family in push.metrics:
            if family.type in _CUMULATIVE:
                families.setdefault(family.name, (family.type, family.documentation))
        for key, value in last.items():
            totals[key] = totals.get(key, 0.0) + value - before.get(key, 0.0)
        generations = dict(ledger.generations)
        others = {name: gone for name, gone in ledger.gone.items() if name != source}
        gone = others | {source: Gone(*generations.pop(source), {key: value for key, value in last.items() if value})}
        newest = list(gone)[-_REMEMBERED:]
        kept = {name: other for name, other in gone.items() if name in newest or name in self._live}
        self._ledger = Ledger(ledger.version + 1, families, totals, kept, generations)


def _label(replica: str, generation: int) -> str:
    return replica if generation == 1 else f"{replica}.{generation}"


def _key(family: str, sample: str, labels: Mapping[str, str]) -> Key:
    return family, sample, tuple(sorted(labels.items()))


def _cumulative(metrics: Iterable[Metric]) -> Iterator[tuple[Key, float]]:
    for family in metrics:
        if family.type in _CUMULATIVE:
            for sample in family.samples:
                yield _key(family.name, sample.name, sample.labels), sample.value


def _add(merged: dict[str, Metric], metrics: Iterable[Metric], replica: str, before: Totals) -> None:
    """Adds a replica's samples, counted from what it had measured `before`."""
    for family in metrics:
        into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            value = sample.value
            if before and family.type in _CUMULATIVE:
                value -= before.get(_key(family.name, sample.name, sample.labels), 0.0)
            into.add_sample(sample.name, {**sample.labels, "replica": replica}, value)


class _Collected:
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def exposition(metrics: list[Metric], accept: str) -> tuple[bytes, str]:
    """Metrics as text in Prometheus' format, or in OpenMetrics' where a client accepts that, and the content type."""
    encode, kind = choose_encoder(accept)
    return encode(_Collected(metrics)), kind


def content_type(accept: str) -> str:
    """The content type with which `exposition` answers an `Accept` header."""
    kind: str = choose_encoder(accept)[1]
    return kind


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
        merged: dict[str, Metric] = {}
        for source in self._sources:
            _add(merged, source(), self._replica, {})
        return exposition([merged[name] for name in sorted(merged)], accept)
