"""The engine around a real (tiny) model: rows under different controls in one batch are what they are alone."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.errors import AddressError, BadInput, ControlError, InternalError, LimitError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.runtime.generate import controlled
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.handle import events_of
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.types import Finished, Tokens

TEXTS = ["She opens the door.", "He walked.", "The tall boy likes the house.", "He saw the book."]
CONTROLS: list[list[dict[str, object]]] = [
    [],
    [{"neurons": "encoder.1.resid[0-15]", "op": "shift", "value": 2.0}],
    [{"neurons": "decoder.0.ffn[1,5,9]", "op": "clamp", "value": 3.0}],
    [{"neurons": "decoder.1.cross[*]", "op": "amplify", "value": 3.0, "phase": "generation"}],
]


@pytest.fixture(scope="module")
def loaded(tiny_marian_path: Path) -> LoadedModel:
    """The tiny model."""
    return load_model(tiny_marian_path)


@pytest.fixture
def engine(loaded: LoadedModel) -> Iterator[Engine]:
    """An engine around it."""
    engine = Engine(RequestProcessor(loaded, SetCatalogue({}), model_id="tiny", default_max_tokens=12))
    yield engine
    engine.close()


def request(number: int, text: str, controls: object = (), **more: object) -> EngineRequest:
    """A request with inline controls."""
    return EngineRequest(f"r{number}", text, parse_controls(list(controls)), **more)  # type: ignore[call-overload, arg-type]


def mixed(**more: object) -> list[EngineRequest]:
    """Every text with other controls than its neighbours."""
    return [request(i, t, CONTROLS[i % 4], **more) for i, t in enumerate(TEXTS * 2)]


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"temperature": 0.8, "seed": 7}])
def test_rows_of_one_batch_equal_their_solo_runs(engine: Engine, settings: dict[str, object]) -> None:
    """Text, lengths and the proof are the same whatever a request's neighbours do."""
    together = [handle.result(60) for handle in engine.submit_all(mixed(**settings))]
    alone = [engine.submit(r).result(60) for r in mixed(**settings)]
    assert together == alone
    assert len({r.text for r in together}) > 2
    assert together[0].applied == {"digest": None, "controls": []}
    assert together[1].applied["digest"].startswith("sha256:")


def test_greedy_text_is_that_of_generate(engine: Engine, loaded: LoadedModel) -> None:
    """The engine adds nothing to what transformers generates under the same controls."""
    requests, expected = mixed(max_tokens=10)[:4], []
    for r in requests:  # all before the engine runs: the model is the engine's then
        plan = engine.processor.prepare(r).plan
        inputs = loaded.tokenizer([r.prompt], return_tensors="pt")
        with torch.inference_mode(), controlled(loaded, [plan]):
            ids = loaded.model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=10)[0]  # type: ignore[operator]
        expected.append(loaded.tokenizer.decode(ids, skip_special_tokens=True))
    assert [handle.result(60).text for handle in engine.submit_all(requests)] == expected


def test_max_tokens_and_stop_are_per_row(engine: Engine) -> None:
    """Each row ends on its own."""
    long = engine.submit(request(0, TEXTS[0], max_tokens=12)).result(60)
    word = long.text.split()[1] if len(long.text.split()) > 1 else long.text[1:3]
    rows = [
        request(0, TEXTS[0], max_tokens=12),
        request(1, TEXTS[0], max_tokens=3),
        request(2, TEXTS[0], max_tokens=12, stop=(word,)),
    ]
    full, short, stopped = (h.result(60) for h in engine.submit_all(rows))
    assert full == long
    assert (short.reason, short.completion_tokens) == ("length", 2)  # the third is the end, which Marian forces
    assert stopped.reason == "stop"
    assert word not in stopped.text
    assert long.text.startswith(stopped.text)


def test_streamed_pieces_join_to_the_text(engine: Engine) -> None:
    """Nothing is lost or doubled on the way."""
    import asyncio

    async def read() -> tuple[str, Finished]:
        handle = engine.submit(request(0, TEXTS[2], CONTROLS[1], stream=True))
        *pieces, end = [event async for events in events_of([handle]) for _, event in events]
        assert isinstance(end, Finished)
        return "".join([piece.text for piece in pieces if isinstance(piece, Tokens)]), end

    pieces, end = asyncio.run(read())
    assert pieces == end.text == engine.submit(request(1, TEXTS[2], CONTROLS[1])).result(60).text


def test_a_row_with_nan_fails_alone(engine: Engine) -> None:
    """Overflowing controls make NaN in their own row; the others do not notice."""
    poison = [
        {"neurons": "decoder.1.resid[*]", "op": "amplify", "value": 1e30},
        {"neurons": "decoder.1.resid[*]", "op": "amplify", "value": 1e30},
    ]
    clean = engine.submit(request(9, TEXTS[1])).result(60)
    good, bad, also_good = engine.submit_all(
        [request(0, TEXTS[1]), request(1, TEXTS[1], poison), request(2, TEXTS[1], num_beams=1)]
    )
    assert good.result(60) == also_good.result(60) == clean
    with pytest.raises(InternalError, match="not a number"):
        bad.result(60)
    with pytest.raises(InternalError, match="not a number"):
        engine.submit(request(3, TEXTS[1], poison, num_beams=2)).result(60)


def test_a_batch_that_raises_costs_only_the_guilty_row(
    engine: Engine, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are run again one by one; nothing is delivered twice."""
    expected = [engine.submit(r).result(60) for r in mixed()]
    push = Sequence.push

    def failing(self: Sequence, token: int, *more: Any) -> Any:
        if self.request.id == "r3" and len(self.ids) == 2:
            raise ValueError("row three is cursed")
        return push(self, token, *more)

    monkeypatch.setattr(Sequence, "push", failing)
    handles = engine.submit_all(mixed())
    for number, (handle, good) in enumerate(zip(handles, expected, strict=True)):
        if number == 3:
            with pytest.raises(InternalError, match="row three is cursed"):
                handle.result(60)
        else:
            assert handle.result(60) == good
    assert engine.stats().state == "ready"


def test_cancelling_a_running_row_leaves_the_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cancelled row ends after the current step."""
    expected = engine.submit(request(1, TEXTS[0], max_tokens=12)).result(60)
    reached, go_on = threading.Event(), threading.Event()
    push = Sequence.push

    def held(self: Sequence, token: int, *more: Any) -> Any:
        if self.request.id == "r0" and len(self.ids) == 2:
            reached.set()
            go_on.wait(30)
        return push(self, token, *more)

    monkeypatch.setattr(Sequence, "push", held)
    doomed, other = engine.submit_all([request(0, TEXTS[0], max_tokens=12), request(1, TEXTS[0], max_tokens=12)])
    assert reached.wait(30)
    doomed.cancel()
    go_on.set()
    result = doomed.result(60)
    assert result.reason == "cancelled"
    assert result.completion_tokens <= 4
    assert other.result(60) == expected


def test_wrong_requests_are_refused_with_their_field(engine: Engine, loaded: LoadedModel) -> None:
    """Nothing wrong reaches the batch."""
    with pytest.raises(LimitError) as long:
        engine.submit(request(0, "the door " * 100, field="prompt[3]"))
    assert long.value.param == "prompt[3]"
    with pytest.raises(LimitError, match="this server reads at most 3") as own:
        RequestProcessor(loaded, SetCatalogue({}), max_prompt_tokens=3).prepare(request(0, TEXTS[0], field="prompt[1]"))
    assert own.value.param == "prompt[1]"
    with pytest.raises(LimitError) as many:
        engine.submit(request(0, "He", max_tokens=10_000))
    assert many.value.param == "max_tokens"
    for field, value in (("temperature", 0.5), ("logprobs", 2)):
        with pytest.raises(BadInput, match="beam search") as search:
            engine.submit(request(0, "He", num_beams=2, **{field: value}))
        assert search.value.param == field
    with pytest.raises((AddressError, ControlError)) as unknown:
        engine.submit(request(0, "He", [*CONTROLS[1], {"neurons": "encoder.9.resid[1]", "op": "prune"}]))
    assert unknown.value.param == "controls[1].neurons"
