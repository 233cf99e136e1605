"""Neuron sets as an engine takes them: from a store, checked before they are published, compiled without running."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from neurodial.control.artifacts.catalogue import SetCatalogue, StoredSets
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.controls import parse_controls
from neurodial.control.errors import (
    ControlError,
    FingerprintError,
    LimitError,
    NeurodialError,
    NeuronSetError,
    NotFound,
    Unavailable,
)
from neurodial.control.models.loading import LoadedModel
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Finished
from tests.control.conftest import make_set
from tests.service.engine.fake import FAKE_FINGERPRINT, FakeRunner
from tests.word_tokenizer import tiny_with_text


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A small translation model."""
    return tiny_with_text("marian")


def file_of(found: NeuronSet, folder: Path) -> bytes:
    """The bytes of a set's file."""
    found.save(folder / "set.safetensors")
    return (folder / "set.safetensors").read_bytes()


def test_a_stored_set_is_found_by_its_digest_alone(loaded: LoadedModel, tmp_path: Path) -> None:
    """It does what the same set does that the engine was started with; only the name is the request's."""
    found = make_set(loaded.fingerprint)
    files = {found.digest: file_of(found, tmp_path)}
    ends = []
    for sets in (StoredSets(files.__getitem__), SetCatalogue({"mood": found})):
        engine = Engine(RequestProcessor(loaded, sets, default_max_tokens=8))
        try:
            controls = parse_controls([{"set": f"mood@{found.digest}", "to": "past", "where": "all", "strength": 9.0}])
            ends.append(engine.submit(EngineRequest("a", "w5 w6 w7", controls)).result(60))
            plain = engine.submit(EngineRequest("b", "w5 w6 w7")).result(60)
        finally:
            engine.close()
    assert ends[0] == ends[1]
    assert ends[0].text != plain.text
    (applied,) = ends[0].applied["controls"]
    assert (applied["set"], applied["digest"], applied["op"]) == ("mood", found.digest, "shift")


def test_a_set_that_is_gone_or_foreign_is_refused_with_its_field(loaded: LoadedModel, tmp_path: Path) -> None:
    """A request never runs without the control that it asked for."""
    foreign = make_set("sha256:" + "9" * 64)
    files = {foreign.digest: file_of(foreign, tmp_path)}

    def read(digest: str) -> bytes:
        if digest not in files:
            raise NotFound(f"the store has no neuron set {digest}")
        return files[digest]

    runner = RequestProcessor(loaded, StoredSets(read))
    gone = "sha256:" + "0" * 64
    refusals: list[tuple[str, type[NeurodialError]]] = [
        (f"mood@{foreign.digest}", FingerprintError),
        (f"mood@{gone}", NotFound),
        ("mood", ControlError),
    ]
    for reference, kind in refusals:
        controls = parse_controls([{"neurons": "encoder.0.ffn[1]", "op": "prune"}, {"set": reference, "to": "past"}])
        for refuse in (
            lambda c=controls: runner.validate(c),
            lambda c=controls: runner.prepare(EngineRequest("a", "w5", c)),
        ):
            with pytest.raises(kind) as refused:
                refuse()
            assert refused.value.param == "controls[1].set"


def test_a_set_is_checked_before_it_is_published(loaded: LoadedModel, tmp_path: Path) -> None:
    """Its card, and every reason to refuse it."""
    runner = RequestProcessor(loaded, StoredSets(dict[str, bytes]().__getitem__), max_set_bytes=20_000)
    good = make_set(loaded.fingerprint)
    card = runner.check_set(file_of(good, tmp_path))
    assert (card.name, card.digest, card.labels) == ("tense", good.digest, ("present", "past"))
    assert card.num_neurons == 7
    refusals: list[tuple[bytes, type[NeurodialError], str]] = [
        (file_of(make_set("sha256:" + "9" * 64), tmp_path), FingerprintError, "made for"),
        (file_of(good, tmp_path)[:-9], NeuronSetError, "not a readable"),
        (b"PK\3\4 a pickle perhaps", NeuronSetError, "not a readable"),
        (b"x" * 20_001, LimitError, "20,001 bytes"),
        (file_of(make_set(loaded.fingerprint, width=5000), tmp_path), NeuronSetError, "does not have"),
    ]
    for data, kind, said in refusals:
        with pytest.raises(kind, match=said):
            runner.check_set(data)
    with pytest.raises(ControlError):
        runner.validate(parse_controls([{"set": "tense", "to": "past"}]))  # nothing was kept


def test_validation_says_what_a_response_would(loaded: LoadedModel) -> None:
    """All but what only a run can tell, and without one."""
    runner = RequestProcessor(loaded, SetCatalogue({"mood": make_set(loaded.fingerprint)}))
    raw = [{"set": "mood", "to": "past"}, {"neurons": "decoder.*.ffn[1,2]", "op": "amplify", "value": 2.0}]
    controls = parse_controls(raw)
    said = runner.validate(controls)
    engine = Engine(runner)
    try:
        applied = engine.submit(EngineRequest("a", "w5 w6", controls, max_tokens=3)).result(60).applied
    finally:
        engine.close()
    stripped = [
        control | {"sites": {site: {"neurons": done["neurons"]} for site, done in control["sites"].items()}}
        for control in applied["controls"]
    ]
    assert said == {"digest": applied["digest"], "controls": stripped}
    assert said["controls"][1]["sites"] == {"decoder.0.ffn": {"neurons": 2}, "decoder.1.ffn": {"neurons": 2}}
    assert runner.validate(()) == {"digest": None, "controls": []}


def test_the_number_of_neurons_is_limited(loaded: LoadedModel) -> None:
    """Over all controls of a request, wherever they are compiled."""
    runner = RequestProcessor(loaded, SetCatalogue({}), max_neurons=10)
    fits = {"neurons": "encoder.0.ffn[0-4]", "op": "prune"}
    runner.validate(parse_controls([fits, fits]))
    with pytest.raises(LimitError, match="11 neurons; at most 10") as refused:
        runner.prepare(EngineRequest("a", "w5", parse_controls([fits, fits | {"neurons": "encoder.0.ffn[0-5]"}])))
    assert refused.value.param == "controls"


def test_the_fake_takes_stored_sets_as_a_real_runner_does(tmp_path: Path) -> None:
    """So that routes and stores are tested without a model."""
    found = make_set(FAKE_FINGERPRINT)
    files = {found.digest: file_of(found, tmp_path)}
    runner = FakeRunner(source=StoredSets(files.__getitem__))
    assert runner.check_set(files[found.digest]).digest == found.digest
    with pytest.raises(FingerprintError):
        runner.check_set(file_of(make_set(), tmp_path))
    said = runner.validate(parse_controls([{"set": f"mood@{found.digest}", "to": "past"}]))
    assert (said["controls"][0]["set"], said["controls"][0]["digest"]) == ("mood", found.digest)
    with pytest.raises(ControlError) as refused:
        runner.validate(parse_controls([{"set": "mood", "to": "past"}]))
    assert refused.value.param == "controls[0].set"


def test_a_caller_that_leaves_while_controls_are_compiled_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The submission goes on in its thread; what it submits is cancelled."""
    runner = FakeRunner()
    engine = Engine(runner)
    reached, go_on, submitted = threading.Event(), threading.Event(), threading.Event()
    submit_all = engine.submit_all

    def slow(requests: tuple[EngineRequest, ...]) -> Any:
        reached.set()
        go_on.wait(30)
        handles = submit_all(requests)
        submitted.set()
        return handles

    async def leave() -> None:
        request = EngineRequest("a", "one two three", parse_controls([{"set": "tense", "to": "past"}]))
        reading = asyncio.ensure_future(anext(LocalClient(engine).generate((request,))))
        await asyncio.to_thread(reached.wait, 30)
        runner.gate.clear()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        go_on.set()
        await asyncio.to_thread(submitted.wait, 30)
        await asyncio.sleep(0.05)
        runner.gate.set()
        while engine.stats().num_running + engine.stats().num_waiting:
            await asyncio.sleep(0.001)

    monkeypatch.setattr(engine, "submit_all", slow)
    try:
        asyncio.run(asyncio.wait_for(leave(), 30))
        assert sum(runner.steps) < 3, "it was not cancelled before its end"
    finally:
        runner.gate.set()
        engine.close()


def test_refusals_of_a_submission_in_a_thread_reach_the_caller() -> None:
    """As they are."""
    engine = Engine(FakeRunner())

    async def ask(client: LocalClient, *controls: dict[str, Any]) -> Any:
        requests = (EngineRequest("a", "one", parse_controls(list(controls))),)
        return [e.text async for events in client.generate(requests) for _, e in events if isinstance(e, Finished)]

    client = LocalClient(engine)
    try:
        assert asyncio.run(ask(client, {"set": "tense", "to": "past"})) == ["eno-past"]
        with pytest.raises(ControlError):
            asyncio.run(ask(client, {"set": "mood", "to": "past"}))
    finally:
        engine.close()
    with pytest.raises(Unavailable):
        asyncio.run(ask(client, {"set": "tense", "to": "past"}))
