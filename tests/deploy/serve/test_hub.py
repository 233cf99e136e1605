"""Metrics of many replicas on one page: each one's last push, as long as that is recent."""

import asyncio
import pickle

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from neurodial.deploy.serve.hub import Hub
from neurodial.service.instruments import Instruments


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Replica:
    """A process that counts things."""

    def __init__(self, name: str) -> None:
        self.name, self.number = name, 0
        self.instruments = Instruments({"model_name": "m"})
        self.requests = self.instruments.counter("requests_total", "Requests.", "code")
        self.seconds = self.instruments.histogram("seconds", "Seconds.", (0.1, 1.0))
        self.open = self.instruments.gauge("open", "Open.")

    def work(self) -> None:
        self.requests.labels("a").inc()
        self.seconds.observe(0.5)
        self.open.set(1)

    def push(self, hub: Hub) -> None:
        """As a reporter does."""
        self.number += 1
        self.push_again(hub, self.number)

    def push_again(self, hub: Hub, number: int) -> None:
        asyncio.run(hub.push(self.name, number, pickle.loads(pickle.dumps(self.instruments.snapshot()))))


def requests(hub: Hub) -> dict[str, float]:
    """Each replica's count."""
    page, _ = asyncio.run(hub.page(""))
    families = {family.name: family for family in parse(page.decode())}
    counted = families["neurodial_requests"].samples if families else []
    return {s.labels["replica"]: s.value for s in counted if s.name == "neurodial_requests_total"}


def test_a_replica_s_series_are_its_own_and_go_when_it_is_silent() -> None:
    """One that was only slow comes back with all that it has counted; a new hub knows nothing at first."""
    clock = Clock()
    hub, first, second = Hub(clock), Replica("a"), Replica("b")
    assert requests(hub) == {}
    for replica in (first, second):
        replica.work()
        replica.push(hub)
    second.work()
    second.push(hub)
    assert requests(hub) == {"a": 1, "b": 2}
    clock.now += 9
    second.push(hub)
    assert requests(hub) == {"a": 1, "b": 2}
    clock.now += 2
    assert requests(hub) == {"b": 2}
    first.work()
    first.push(hub)
    assert requests(hub) == {"a": 2, "b": 2}
    new = Hub(clock)
    second.push(new)
    assert requests(new) == {"b": 2}


def test_late_pushes_are_ignored() -> None:
    """A message that a newer one has overtaken: a counter that fell would look like one that began anew."""
    hub, replica, late = Hub(Clock()), Replica("a"), Replica("a")
    replica.work()
    replica.push_again(hub, 2)
    late.requests.labels("a")
    late.push_again(hub, 1)
    assert requests(hub) == {"a": 1}


@pytest.mark.parametrize("accept", ["", "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"])
def test_the_page_parses(accept: str) -> None:
    """By Prometheus' own parsers, with the content type that was asked for; a family is one, whoever measured it."""
    hub = Hub(Clock())
    for name in "ab":
        replica = Replica(name)
        replica.work()
        replica.push(hub)
    body, content_type = asyncio.run(hub.page(accept))
    is_open = "openmetrics" in accept
    found = {f.name: f for f in (parse_openmetrics if is_open else parse)(body.decode())}
    assert content_type.startswith("application/openmetrics-text" if is_open else "text/plain; version=")
    assert found["neurodial_requests"].type == "counter"
    for family in found.values():
        assert {s.labels["replica"] for s in family.samples} == {"a", "b"}
    assert len(found) == 3
