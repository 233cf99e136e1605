"""Metrics of many replicas on one page: whatever starts, stops, stalls or comes back, no sum ever falls."""

import pickle
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from neurodial.control.errors import Unavailable
from neurodial.service.instruments import Instruments
from neurodial.service.observability.merging import ENDED, Ledger, MetricsHub, Push, exposition

GONE_AFTER_S = 10.0
PLACE = st.integers(0, 2)


class Replica:
    """A process that counts things."""

    def __init__(self, source: str, name: str) -> None:
        self.source, self.name, self.number, self.ledger = source, name, 0, Ledger()
        self.instruments = Instruments({"model_name": "m"})
        self.requests = self.instruments.counter("requests_total", "Requests.", "code")
        self.seconds = self.instruments.histogram("seconds", "Seconds.", (0.1, 1.0))
        self.open = self.instruments.gauge("open", "Open.")
        self.requests.labels("a")

    def work(self, value: float) -> None:
        self.requests.labels("a" if value < 1 else "b").inc()
        self.seconds.observe(value)
        self.open.set(value)

    def push(self, hub: MetricsHub) -> None:
        """As a reporter does: an older hub's ledger first, where the hub asks for it."""
        self.number += 1
        message = pickle.loads(pickle.dumps(Push(self.source, self.name, self.number, self.instruments.snapshot())))
        reply = hub.push(message, self.ledger.version)
        if reply.version < self.ledger.version:
            hub.restore(self.ledger)
            reply = hub.push(message, self.ledger.version)
        if reply.ledger is not None:
            self.ledger = pickle.loads(pickle.dumps(reply.ledger))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def samples(hub: MetricsHub) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every cumulative series of the page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in hub.metrics()
        if family.type != "gauge"
        for sample in family.samples
    }


def sums(series: Mapping[Any, float]) -> dict[Any, float]:
    """Over the replicas."""
    total: dict[Any, float] = {}
    for (name, labels), value in series.items():
        key = name, tuple(pair for pair in labels if pair[0] != "replica")
        total[key] = total.get(key, 0.0) + value
    return total


class Merging(RuleBasedStateMachine):
    """Restarts, silences and returns in any order; a new hub gets everything back that any replica remembers."""

    @initialize(same_names=st.booleans())
    def start(self, same_names: bool) -> None:
        self.clock = Clock()
        self.hub = MetricsHub(GONE_AFTER_S, settle_s=0.0, clock=self.clock)
        self.replicas = [Replica(f"s{place}", "r" if same_names else f"r{place}") for place in range(3)]
        self.everything = list(self.replicas)
        self.highest: dict[Any, float] = {}
        self.sums: dict[Any, float] = {}

    @rule(place=PLACE, value=st.floats(0, 3))
    def work(self, place: int, value: float) -> None:
        self.replicas[place].work(value)

    @rule(place=PLACE)
    def push(self, place: int) -> None:
        self.replicas[place].push(self.hub)

    @rule(place=PLACE)
    def restart(self, place: int) -> None:
        old = self.replicas[place]
        old.push(self.hub)  # what a process counts after its last push is lost with it
        self.replicas[place] = Replica(f"t{len(self.everything)}", old.name)
        self.everything.append(self.replicas[place])

    @rule(seconds=st.floats(0.1, 25.0))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def new_hub(self) -> None:
        self.push_all()
        self.push_all()  # so that everybody has the newest ledger
        if len(self.hub._live) == len(self.replicas):  # who ends unheard together with the hub is lost
            self.hub = MetricsHub(GONE_AFTER_S, settle_s=0.0, clock=self.clock)
            self.push_all()

    @invariant()
    def nothing_falls(self) -> None:
        series = samples(self.hub)
        for one, number in series.items():
            assert number >= self.highest.get(one, 0.0) - 1e-9, one
            self.highest[one] = number
        new = sums(series)
        for key, total in self.sums.items():
            assert new[key] >= total - 1e-9, key
        self.sums = new

    def push_all(self) -> None:
        for replica in self.replicas:
            replica.push(self.hub)

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        self.push_all()
        measured: dict[Any, float] = {}
        for replica in self.everything:
            for family in replica.instruments.snapshot():
                for sample in family.samples if family.type != "gauge" else ():
                    key = sample.name, tuple(sorted(sample.labels.items()))
                    measured[key] = measured.get(key, 0.0) + sample.value
        assert sums(samples(self.hub)) == pytest.approx(measured)


TestMerging = Merging.TestCase
TestMerging.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_replica_that_ends_moves_to_ended() -> None:
    """Its series vanish in the same moment, gauges altogether; one that comes back has a new label."""
    clock = Clock()
    hub = MetricsHub(GONE_AFTER_S, settle_s=0.0, clock=clock)
    first, second = Replica("1", "a"), Replica("2", "b")
    for replica in (first, second):
        replica.work(0.5)
        replica.push(hub)
    clock.now += GONE_AFTER_S - 1
    second.push(hub)
    clock.now += 1
    page = {(f.name, s.name, s.labels["replica"]): s.value for f in hub.metrics() for s in f.samples}
    assert page["neurodial_requests", "neurodial_requests_total", ENDED] == 1
    assert not [key for key in page if key[2] == "a"]
    assert ("neurodial_open", "neurodial_open", ENDED) not in page
    first.work(0.5)
    first.push(hub)
    series = samples(hub)
    labels = (("code", "a"), ("model_name", "m"), ("replica", "a.2"))
    assert series["neurodial_requests_total", labels] == 1  # since it came back


def test_late_pushes_are_ignored() -> None:
    """A message that a newer one has overtaken."""
    hub = MetricsHub(settle_s=0.0)
    replica = Replica("1", "a")
    old = Push("1", "a", 1, replica.instruments.snapshot())
    replica.work(0.5)
    hub.push(Push("1", "a", 2, replica.instruments.snapshot()))
    hub.push(old)
    assert sum(value for (name, _), value in samples(hub).items() if name == "neurodial_requests_total") == 1


def test_a_new_hub_has_no_page_at_first() -> None:
    """Rather than one on which replicas are missing."""
    clock = Clock()
    hub = MetricsHub(settle_s=3.0, clock=clock)
    with pytest.raises(Unavailable):
        hub.metrics()
    clock.now += 3
    assert hub.metrics() == []


def test_a_new_hub_waits_for_those_that_the_last_one_knew() -> None:
    """Slow ones are on its first page, or counted as ended with what only the last hub knew of them."""
    clock = Clock()
    replicas = [Replica(name, name) for name in "abc"]
    hub = MetricsHub(GONE_AFTER_S, settle_s=0.0, clock=clock)
    for replica in (*replicas, *replicas):
        replica.work(0.5)
        replica.push(hub)
    before = sums(samples(hub))
    new = MetricsHub(GONE_AFTER_S, settle_s=3.0, clock=clock)
    clock.now += 4
    for replica in replicas[:2]:
        replica.push(new)
        with pytest.raises(Unavailable):
            new.metrics()
    replicas[2].push(new)
    assert sums(samples(new)) == before
    alone = MetricsHub(GONE_AFTER_S, settle_s=3.0, clock=clock)
    replicas[0].push(alone)
    clock.now += GONE_AFTER_S - 0.1
    replicas[0].push(alone)
    with pytest.raises(Unavailable):
        alone.metrics()
    clock.now += 0.1
    assert alone.metrics()


@pytest.mark.parametrize("accept", ["", "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"])
def test_the_page_parses(accept: str) -> None:
    """By Prometheus' own parsers, with the content type that was asked for."""
    hub = MetricsHub(settle_s=0.0)
    replica = Replica("1", "a")
    replica.work(0.5)
    replica.push(hub)
    body, content_type = exposition(hub.metrics(), accept)
    read = parse_openmetrics if "openmetrics" in accept else parse
    found = {f.name: f for f in read(body.decode())}
    assert content_type.startswith(
        "application/openmetrics-text" if "openmetrics" in accept else "text/plain; version="
    )
    assert found["neurodial_requests"].type == "counter"
    assert {s.labels["replica"] for f in found.values() for s in f.samples} == {"a"}
    assert len(found) == 3
