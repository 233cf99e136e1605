"""The catalogue over a store and an engine: several replicas, restarts, pinned digests, allow-lists, the audit."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neurodial.control.artifacts.catalogue import StoredSets
from neurodial.control.controls import Control, parse_controls
from neurodial.control.errors import (
    BadInput,
    ConfigError,
    ControlError,
    FingerprintError,
    NeurodialError,
    NeuronSetError,
    NotFound,
    Unavailable,
)
from neurodial.service.access.auth import Principal
from neurodial.service.engine.client import EngineClient, LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Finished
from neurodial.service.errors import Conflict, Forbidden, ModelNotFound
from neurodial.service.sets.aliases import Version
from neurodial.service.sets.catalogue import Catalogue
from neurodial.service.sets.store import SetStore, StoreFull
from tests.service.engine.fake import FakeRunner
from tests.service.sets.sets import set_file

PAST = parse_controls([{"set": "tense", "to": "past"}])


@dataclass
class Replica:
    """What one replica has: an engine that reads sets from the store, and a catalogue."""

    runner: FakeRunner
    engine: Engine
    client: LocalClient
    catalogue: Catalogue

    def resolve(self, raw: Any, **more: Any) -> tuple[Control, ...]:
        """Controls with their sets pinned."""
        return asyncio.run(self.catalogue.names()).resolve("en-es", parse_controls(raw), **more)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    """Starts a replica on the same folder."""
    engines = []

    def begin(*, refresh_s: float = 0.0, **options: Any) -> Replica:
        store = SetStore(str(tmp_path / "store"), **options)
        runner = FakeRunner("en-es", source=StoredSets(store.read))
        engine = Engine(runner)
        engines.append((runner, engine))
        client = LocalClient(engine)
        clients: Mapping[str, EngineClient] = {"en-es": client}
        return Replica(runner, engine, client, Catalogue(clients, store, refresh_s=refresh_s))

    yield begin
    for runner, engine in engines:
        runner.gate.set()
        engine.close()


@pytest.fixture
def replica(start: Callable[..., Replica]) -> Replica:
    """One of them."""
    return start()


def publish(replica: Replica, data: bytes, name: str | None = "tense") -> Any:
    """Publishes; the name's entry and whether it is new."""
    return asyncio.run(replica.catalogue.publish("en-es", name, data, by="anna"))


def test_publish_is_visible_pinned_and_idempotent(replica: Replica) -> None:
    entry, is_new = publish(replica, set_file(1))
    assert (entry.name, entry.info.labels, entry.history, is_new) == ("tense", ("present", "past"), (), True)
    assert replica.resolve([{"set": "tense", "to": "past"}])[0].set == f"tense@{entry.info.digest}"
    assert publish(replica, set_file(1))[1] is False
    assert len(asyncio.run(replica.catalogue.audit(10))) == 1
    assert publish(replica, set_file(2), name=None)[0].name == "tense"  # the concept


def test_an_older_digest_can_be_asked_for_and_a_foreign_one_not(replica: Replica) -> None:
    first, second = (publish(replica, set_file(n))[0].info.digest for n in (1, 2))
    assert replica.resolve([{"set": "tense"}])[0].set == f"tense@{second}"
    assert replica.resolve([{"set": f"tense@{first[:14]}"}])[0].set == f"tense@{first}"
    wrong = [("tense@sha256:ffff", "here, not"), ("tense@sha256:", "not a digest"), ("tense@x", "not a digest")]
    for reference, said in [*wrong, ("mood", "no neuron set 'mood'"), ("tense@", "not a digest")]:
        with pytest.raises(ControlError, match=said) as refused:
            replica.resolve([{"neurons": "encoder.0.resid[1]", "op": "prune"}, {"set": reference}])
        assert refused.value.param == "controls[1].set"


def test_another_replica_sees_a_change_within_a_second_and_a_restart_keeps_it(start: Callable[..., Replica]) -> None:
    here, there = start(refresh_s=1.0), start(refresh_s=1.0)

    async def until_seen(digest: str) -> float:
        started = time.monotonic()
        while [e.info.digest for e in (await there.catalogue.names()).entries()] != [digest]:
            assert time.monotonic() - started < 10
            await asyncio.sleep(0.02)
        return time.monotonic() - started

    for number in (1, 2):
        digest = publish(here, set_file(number))[0].info.digest
        waited = asyncio.run(until_seen(digest))
        assert there.resolve(list(PAST))[0].set == f"tense@{digest}"
        assert waited < 5, "a look is due after one second; the rest is for a busy machine"
    asyncio.run(here.catalogue.delete("en-es", "tense", by="anna"))
    assert start().resolve([]) == ()
    with pytest.raises(ControlError):
        start().resolve(list(PAST))
    back = asyncio.run(start().catalogue.rollback("en-es", "tense", by="bob"))
    assert start().resolve(list(PAST))[0].set == f"tense@{back.info.digest}"


def test_a_look_costs_nothing_within_the_time_that_is_trusted(
    start: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, looks = start(refresh_s=100), []
    newest = SetStore.newest

    def counted(self: SetStore, known: Version | None = None) -> Version:
        looks.append(1)
        return newest(self, known)

    monkeypatch.setattr(SetStore, "newest", counted)

    async def many() -> None:
        for _ in range(5):
            await replica.catalogue.names()

    asyncio.run(many())
    assert len(looks) == 1


def test_requests_that_run_keep_the_digest_they_started_with(start: Callable[..., Replica]) -> None:
    here, there = start(), start()
    first = publish(here, set_file(1))[0].info.digest

    async def serve() -> tuple[Finished, Finished]:
        async def finish(controls: tuple[Control, ...], name: str) -> Finished:
            arriving = here.client.generate((EngineRequest(name, "abc def", controls),))
            (end,) = [event async for events in arriving for _, event in events]
            assert isinstance(end, Finished)
            return end

        here.runner.gate.clear()
        pinned = (await here.catalogue.names()).resolve("en-es", PAST)
        running = asyncio.create_task(finish(pinned, "early"))
        while not here.engine.stats().num_running:
            await asyncio.sleep(0.01)
        await there.catalogue.publish("en-es", "tense", set_file(2), by="anna")  # by another replica, in the middle
        late = asyncio.create_task(finish((await here.catalogue.names()).resolve("en-es", PAST), "late"))
        await there.catalogue.delete("en-es", "tense", by="anna")
        await asyncio.sleep(0.05)
        here.runner.gate.set()
        return await running, await late

    early, late = asyncio.run(serve())
    assert early.applied["controls"][0]["digest"] == first
    assert late.applied["controls"][0]["digest"] not in (first, None)
    assert early.text == late.text == "cba-past fed-past"


REFUSED: list[tuple[bytes, type[NeurodialError]]] = [
    (set_file(1, fingerprint="fake:another"), FingerprintError),
    (set_file(1)[:-20], NeuronSetError),
    (set_file(1)[:5], NeuronSetError),
    (b"", NeuronSetError),
    (b"\x80\x04\x95 a pickle", NeuronSetError),
    (b"PK\x03\x04 an archive" * 10, NeuronSetError),
]


@pytest.mark.parametrize(("data", "kind"), REFUSED, ids=["model", "truncated", "header", "empty", "pickle", "archive"])
def test_what_an_engine_refuses_is_not_kept(
    replica: Replica, tmp_path: Path, data: bytes, kind: type[NeurodialError]
) -> None:
    with pytest.raises(kind) as refused:
        publish(replica, data)
    assert "\n" not in refused.value.message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert asyncio.run(replica.catalogue.audit(10)) == []


@pytest.mark.parametrize(
    "name", ["", "a/b", "../x", "a@b", "a:b", "x" * 65, ".hidden", "audit", "validate", "ä", "a b"]
)
def test_names_that_cannot_be(replica: Replica, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be the name"):
        publish(replica, set_file(1), name)
    with pytest.raises(ConfigError):
        asyncio.run(replica.catalogue.configure({"en-es": {name: set_file(1)}}))


def test_the_audit_says_who_did_what(replica: Replica) -> None:
    catalogue = replica.catalogue

    async def change() -> None:
        await catalogue.configure({"en-es": {"tense": set_file(1)}})
        await catalogue.publish("en-es", "tense", set_file(2), by="anna")
        await catalogue.rollback("en-es", "tense", by="bob")
        await catalogue.delete("en-es", "tense", by="bob")

    asyncio.run(change())
    events = [version.event for version in asyncio.run(catalogue.audit(10))]
    assert [(e.by, e.action, e.name) for e in events if e] == [
        ("bob", "delete", "tense"),
        ("bob", "rollback", "tense"),
        ("anna", "publish", "tense"),
        ("configuration", "configure", "tense"),
    ]
    one, two = events[3], events[2]
    assert one is not None
    assert two is not None
    assert [(e.previous, e.digest) for e in events if e] == [
        (one.digest, None),
        (two.digest, one.digest),
        (one.digest, two.digest),
        (None, one.digest),
    ]
    assert [v.number for v in asyncio.run(catalogue.audit(2, before=4))] == [3, 2]


def test_many_writers_of_one_name_lose_nothing(start: Callable[..., Replica]) -> None:
    replicas = [start() for _ in range(3)]
    files = [set_file(n) for n in range(9)]

    async def all_at_once() -> None:
        await asyncio.gather(
            *(
                replicas[n % 3].catalogue.publish("en-es", f"set{n % 2}", data, by=f"w{n}")
                for n, data in enumerate(files)
            )
        )

    asyncio.run(all_at_once())
    versions = asyncio.run(start().catalogue.audit(100))
    assert sorted(v.event.by for v in versions if v.event) == [f"w{n}" for n in range(9)]
    entries = asyncio.run(start().catalogue.names()).entries()
    assert sorted(len(entry.history) for entry in entries) == [3, 4]


def test_what_was_published_survives_a_restart_with_the_same_configuration(start: Callable[..., Replica]) -> None:
    def configured(number: int | None) -> dict[str, dict[str, bytes]]:
        return {"en-es": {} if number is None else {"tense": set_file(number)}}

    async def restart(number: int | None) -> list[str]:
        catalogue = start().catalogue
        await asyncio.gather(catalogue.configure(configured(number)), start().catalogue.configure(configured(number)))
        return [entry.info.digest for entry in (await catalogue.names()).entries()]

    one = asyncio.run(restart(1))
    two = [publish(start(), set_file(2))[0].info.digest]
    assert asyncio.run(restart(1)) == two  # a restart changes nothing
    three = asyncio.run(restart(3))
    assert three not in (one, two)  # a changed configuration does
    assert asyncio.run(restart(None)) == []
    assert len(asyncio.run(start().catalogue.audit(100))) == 4


def test_a_full_store_refuses_and_keeps_what_there_is(start: Callable[..., Replica]) -> None:
    size = len(set_file(1))
    small = start(max_bytes=2 * size)
    publish(small, set_file(1))
    with pytest.raises(StoreFull):
        publish(small, set_file(2))
    assert len(asyncio.run(small.catalogue.audit(10))) == 1
    assert small.resolve(list(PAST))


def test_a_store_that_fails_leaves_what_is_known(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(replica, set_file(1))

    def fail(*_: object, **__: object) -> None:
        raise Unavailable("the store of neuron sets does not answer")

    monkeypatch.setattr(SetStore, "newest", fail)
    assert replica.resolve(list(PAST))
    with pytest.raises(Unavailable):
        publish(replica, set_file(2))
    with pytest.raises(Unavailable):
        asyncio.run(Catalogue({}, SetStore("memory://none")).names())


def test_without_a_store_the_sets_are_the_engine_s_and_fixed() -> None:
    engine = Engine(FakeRunner("en-es", sets=("tense", "number")))
    catalogue = Catalogue({"en-es": LocalClient(engine)})
    names = asyncio.run(catalogue.names())
    assert [entry.name for entry in names.entries()] == ["number", "tense"]
    assert str(names.resolve("en-es", PAST)[0].set).startswith("tense@sha256:")
    for change in (
        catalogue.publish("en-es", "tense", set_file(1), by="anna"),
        catalogue.delete("en-es", "tense", by="anna"),
        catalogue.rollback("en-es", "tense", by="anna"),
        catalogue.audit(1),
    ):
        with pytest.raises(Conflict, match="no store"):
            asyncio.run(change)
    engine.close()


def test_allow_lists_and_addresses(replica: Replica) -> None:
    for name in ("tense", "number"):
        publish(replica, set_file(1), name)
    limited = Principal("limited", sets=frozenset(("en-es:tense", "mood")), inline=False)
    names = asyncio.run(replica.catalogue.names())
    assert [entry.name for entry in names.entries(principal=limited)] == ["tense"]
    assert names.entry("tense", principal=limited).model == "en-es"
    assert replica.resolve([{"set": "tense"}], principal=limited)
    assert names.pin("en-es", "tense", limited).startswith("tense@sha256:")
    with pytest.raises(NotFound):
        names.entry("number", principal=limited)
    gate = {"neuron": "encoder.0.resid[5]", "above": 0.3}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"set": "number"}, "controls[0].set"),
        ({"set": "unknown"}, "controls[0].set"),  # does not say whether there is one
        ({"neurons": "encoder.0.resid[1]", "op": "prune"}, "controls[0].neurons"),
        ({"set": "tense", "where": gate}, "controls[0].where.neuron"),
        ({"set": "tense", "when": gate}, "controls[0].when.neuron"),
    ]
    for raw, param in wrong:
        with pytest.raises(Forbidden) as refused:
            replica.resolve([raw], principal=limited)
        assert refused.value.param == param
    with pytest.raises(Forbidden, match="set: limited may not"):
        names.pin("en-es", "number", limited)


def test_names_are_each_model_s_own(tmp_path: Path) -> None:
    store = SetStore(str(tmp_path))
    engines = {m: Engine(FakeRunner(m, source=StoredSets(store.read))) for m in ("a", "b")}
    catalogue = Catalogue({m: LocalClient(e) for m, e in engines.items()}, store, refresh_s=0)

    async def check() -> None:
        for model in engines:
            await catalogue.publish(model, "tense", set_file(1), by="anna")
        await catalogue.publish("b", "tense", set_file(2), by="anna")
        names = await catalogue.names()
        assert [len(names.entry("tense", m).history) for m in engines] == [0, 1]
        with pytest.raises(BadInput, match="several models"):
            names.entry("tense")
        with pytest.raises(ModelNotFound):
            await catalogue.publish("c", "tense", set_file(1), by="anna")

    asyncio.run(check())
    for engine in engines.values():
        engine.close()
