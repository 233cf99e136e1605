"""Requests that only read: embeddings and activations in one batch are those of each text alone, under its controls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration, SiteStatistics
from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.errors import AddressError, BadInput, ControlError, InternalError, LimitError, NeurodialError
from neurodial.control.models.capture import capture
from neurodial.control.models.loading import LoadedModel
from neurodial.control.runtime.generate import controlled
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.model.describing import describe
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.model.sampling import ModelDefaults
from neurodial.service.engine.requests import EngineRequest, Task
from neurodial.service.engine.scheduler import Capacity
from neurodial.service.engine.types import Finished
from tests.control.conftest import make_set
from tests.tiny import ARCHITECTURE_NAMES, EOS
from tests.word_tokenizer import sentences, tiny_with_text

FAMILIES = ["bert", "modernbert", "llama", "gpt2", "opt", "bloom", "marian", "t5", "m2m_100"]
TASKS: tuple[Task, ...] = ("encode", "activations")
TRANSLATING = ["marian", "t5", "m2m_100"]


def _contract(name: str) -> Any:
    """An architecture that `make contracts` covers."""
    return pytest.param(name, marks=pytest.mark.contracts)


@contextmanager
def engine_of(loaded: LoadedModel, **settings: Any) -> Iterator[Engine]:
    """An engine around a model."""
    engine = Engine(RequestProcessor(loaded, SetCatalogue({}), **settings), Capacity(max_rows=8))
    try:
        yield engine
    finally:
        engine.close()


def controls_of(number: int, stack: str) -> Any:
    """A different control for every request, some with a gate or a phase."""
    variants: list[list[dict[str, object]]] = [
        [],
        [{"neurons": f"{stack}.0.ffn[{number % 8},20-30]", "op": "shift", "value": 1.5}],
        [{"neurons": f"{stack}.1.resid[*]", "op": "amplify", "value": 2.0, "phase": "prompt"}],
        [
            {"neurons": f"{stack}.0.resid[1-9]", "op": "clamp", "value": 3.0},
            {
                "neurons": f"{stack}.1.ffn[0-20]",
                "op": "prune",
                "where": {"neuron": f"{stack}.0.resid[{number % 16 + 10}]", "above": 0.0},
            },
        ],
    ]
    return parse_controls(variants[number % len(variants)])


def alone(
    loaded: LoadedModel, engine: Engine, request: EngineRequest, sites: list[Site]
) -> tuple[dict[Site, torch.Tensor], torch.Tensor, Any]:
    """What `control` itself records of one text: activations, pooled states and the report.

    The engine must have been closed: until then the model is its own.
    """
    prepared: Any = engine.processor.prepare(request)
    model: Any = loaded.model
    ids = torch.tensor([prepared.prompt_ids])
    with torch.inference_mode(), controlled(loaded, [prepared.plan]) as applied, capture(model, sites) as recorded:
        if prepared.target_ids:
            target = torch.tensor([prepared.target_ids])
            states = model.base_model(input_ids=ids, decoder_input_ids=target, use_cache=False)
            states = states.encoder_last_hidden_state
        elif loaded.family == "encoder-decoder":
            states = model.get_encoder()(input_ids=ids).last_hidden_state
        else:
            states = model.base_model(input_ids=ids).last_hidden_state
    return {site: x[0] for site, x in recorded.items()}, states[0].mean(0), applied.report(0)


@pytest.mark.parametrize("name", [*FAMILIES, *(_contract(n) for n in ARCHITECTURE_NAMES if n not in FAMILIES)])
def test_texts_of_one_batch_are_read_as_each_alone(name: str) -> None:
    """Embeddings and activations together, of different lengths and under different controls."""
    loaded = tiny_with_text(name)
    stack = loaded.sites.stacks[0]
    names = (f"{stack}.0.ffn[3,7]", f"{stack}.1.resid[0-4]", f"{stack}.embed[5]", f"{stack}.*.attn[2]")
    sites = [Site.parse(f"{stack}.{part}") for part in ("0.ffn", "1.resid", "embed", "0.attn", "1.attn")]
    requests = [
        EngineRequest(str(i), text, controls_of(i, stack), task=task, neurons=names if task == "activations" else ())
        for i, text in enumerate(sentences(12))
        for task in (TASKS[i // 4 % 2],)
    ]
    with engine_of(loaded) as engine:
        ends = [handle.result(60) for handle in engine.submit_all(requests)]
    for request, end in zip(requests, ends, strict=True):
        recorded, pooled, report = alone(loaded, engine, request, sites)
        assert end.applied == (report or {"digest": None, "controls": []})
        assert (end.reason, end.completion_tokens) == ("stop", 0)
        if request.task == "encode":
            torch.testing.assert_close(torch.tensor(end.payload), pooled, atol=2e-5, rtol=1e-4)
            continue
        (found,) = end.payload
        assert found.neurons[:3] == (f"{stack}.0.ffn[3]", f"{stack}.0.ffn[7]", f"{stack}.1.resid[0]")
        assert found.neurons[-2:] == (f"{stack}.0.attn[2]", f"{stack}.1.attn[2]")
        assert len(found.token_ids) == end.prompt_tokens == len(found.values)
        assert found.tokens == tuple(f"w{i}" for i in found.token_ids)
        expected = torch.stack([recorded[s][:, n] for s, n in map(parsed, found.neurons)], dim=1)
        torch.testing.assert_close(torch.tensor(found.values), expected, atol=2e-5, rtol=1e-4)


def parsed(address: str) -> tuple[Site, int]:
    """The site and the number of one neuron."""
    site, _, number = address.removesuffix("]").partition("[")
    return Site.parse(site), int(number)


@pytest.mark.parametrize("name", [*TRANSLATING, *(_contract(n) for n in ("t5-gated", "bart", "mbart", "pegasus"))])
def test_a_decoder_reads_the_target_as_if_it_had_written_it(name: str) -> None:
    """Both stacks at once, under controls of both; position by position, as a forward pass with labels does."""
    loaded = tiny_with_text(name)
    names = ("decoder.1.cross[0-3]", "encoder.0.ffn[9]", "decoder.0.ffn[11]")
    sites = [Site.parse(site) for site in ("decoder.1.cross", "encoder.0.ffn", "decoder.0.ffn")]
    texts, targets = sentences(8), sentences(8, seed=5)
    requests = [
        EngineRequest(
            str(i),
            text,
            (*controls_of(i, "encoder"), *controls_of(i + 1, "decoder")),
            task="activations",
            neurons=names,
            target=targets[i],
        )
        for i, text in enumerate(texts)
        if i % 4 != 1  # a phase "prompt" has no position in a decoder that reads none
    ]
    with engine_of(loaded) as engine:
        ends = [handle.result(60) for handle in engine.submit_all(requests)]
    for request, end in zip(requests, ends, strict=True):
        recorded, _, report = alone(loaded, engine, request, sites)
        assert end.applied == (report or {"digest": None, "controls": []})
        assert [found.stack for found in end.payload] == ["encoder", "decoder"]
        source, target = end.payload
        assert source.neurons == ("encoder.0.ffn[9]",)
        assert target.neurons == (*(f"decoder.1.cross[{i}]" for i in range(4)), "decoder.0.ffn[11]")
        start = ModelDefaults.of(loaded.model).start
        words = loaded.tokenizer(text_target=request.target, split_special_tokens=True)["input_ids"]
        assert target.token_ids == (start, *words[:-1])  # the end is written, and never read
        for found in (source, target):
            expected = torch.stack([recorded[s][:, n] for s, n in map(parsed, found.neurons)], dim=1)
            torch.testing.assert_close(torch.tensor(found.values), expected, atol=2e-5, rtol=1e-4)


def test_activations_are_read_after_the_request_s_own_controls() -> None:
    """What a clamp sets is what is read, and only in the row that asked for it."""
    loaded = tiny_with_text("llama")
    clamp = parse_controls([{"neurons": "decoder.0.ffn[3]", "op": "clamp", "value": 7.0}])
    request = EngineRequest("a", "w5 w6 w7", clamp, task="activations", neurons=("decoder.0.ffn[3,4]",))
    other = EngineRequest("b", "w5 w6 w7", task="activations", neurons=("decoder.0.ffn[3,4]",))
    with engine_of(loaded) as engine:
        held, free = (handle.result(60).payload[0] for handle in engine.submit_all([request, other]))
    assert [row[0] for row in held.values] == [7.0] * 4
    assert all(row[0] != 7.0 for row in free.values)
    assert [row[1] for row in held.values] == pytest.approx([row[1] for row in free.values], abs=1e-6)


def test_reading_beside_writing_changes_neither() -> None:
    """Texts that are read join a batch that is being written."""
    loaded = tiny_with_text("llama")
    writing = [
        EngineRequest(f"w{i}", text, controls_of(i, "decoder"), max_tokens=9) for i, text in enumerate(sentences(4))
    ]
    reading = [
        EngineRequest(f"r{i}", text, controls_of(i, "decoder"), task="activations", neurons=("decoder.1.ffn[0-9]",))
        for i, text in enumerate(sentences(4, seed=2))
    ]
    with engine_of(loaded) as engine:
        mixed = [r for pair in zip(writing, reading, strict=True) for r in pair]
        together = [handle.result(60) for handle in engine.submit_all(mixed)]
        solo = [engine.submit(request).result(60) for request in mixed]
    assert [end.text for end in together] == [end.text for end in solo]
    assert [end.applied for end in together] == [end.applied for end in solo]
    for one, other in zip(together[1::2], solo[1::2], strict=True):
        torch.testing.assert_close(torch.tensor(one.payload[0].values), torch.tensor(other.payload[0].values))


@pytest.mark.parametrize("task", ["encode", "activations"])
def test_values_that_are_not_numbers_fail_their_row_alone(task: Any) -> None:
    """JSON has no NaN, and a neighbour never sees one."""
    loaded = tiny_with_text("bert")
    poison = parse_controls([{"neurons": "encoder.0.resid[*]", "op": "amplify", "value": 1e30}] * 2)
    names = ("encoder.1.resid[0-3]",) if task == "activations" else ()
    bad, good = (
        EngineRequest("a", "w5 w6 w7", poison, task=task, neurons=names),
        EngineRequest("b", "w5 w6", task="encode"),
    )
    with engine_of(loaded) as engine:
        clean = engine.submit(good).result(60)
        broken, fine = engine.submit_all([bad, good])
        with pytest.raises(InternalError, match="not a number"):
            broken.result(60)
        torch.testing.assert_close(torch.tensor(fine.result(60).payload), torch.tensor(clean.payload))


WRONG: list[tuple[str, dict[str, Any], type[NeurodialError], str, str]] = [
    ("bert", {"neurons": ()}, BadInput, "neurons", "empty"),
    ("bert", {"neurons": ("encoder.0.ffn[1]", "encoder.0.ffn[999]")}, AddressError, "neurons[1]", "no 999"),
    ("bert", {"neurons": ("encoder.7.ffn[1]",)}, AddressError, "neurons[0]", "layers 0 to 1"),
    ("bert", {"neurons": ("decoder.0.ffn[1]",)}, AddressError, "neurons[0]", "no decoder"),
    ("bert", {"neurons": ("encoder.0.ffn",)}, AddressError, "neurons[0]", "not a neuron address"),
    ("bert", {"neurons": ("mood",)}, ControlError, "neurons[0]", "no neuron set 'mood'"),
    ("bert", {"neurons": ("encoder.0.ffn[1]",), "target": "w5"}, BadInput, "target", "encoder–decoder"),
    ("marian", {"neurons": ("decoder.0.ffn[1]",)}, BadInput, "target", "missing"),
    ("marian", {"neurons": ("encoder.0.ffn[1]",), "target": "w5 " * 80}, LimitError, "target", "at most 64"),
    ("marian", {"task": "encode", "target": "w5"}, BadInput, "target", "activations"),
    (
        "marian",
        {"task": "encode", "controls": [{"neurons": "decoder.0.ffn[1]", "op": "prune"}]},
        ControlError,
        "controls[0]",
        "does not run",
    ),
    (
        "llama",
        {
            "task": "encode",
            "controls": [
                {"neurons": "decoder.0.ffn[1]", "op": "prune", "when": {"neuron": "decoder.0.resid[5]", "above": 0.3}}
            ],
        },
        ControlError,
        "controls[0].when",
        "while text is generated",
    ),
]


@pytest.mark.parametrize(("name", "settings", "kind", "param", "said"), WRONG)
def test_what_cannot_be_read_is_refused_with_its_field(
    name: str, settings: dict[str, Any], kind: type[NeurodialError], param: str, said: str
) -> None:
    """Before anything runs."""
    asked = {"task": "activations"} | settings
    controls = parse_controls(asked.pop("controls", []))
    runner = RequestProcessor(tiny_with_text(name), SetCatalogue({}))
    with pytest.raises(kind, match=said) as refused:
        runner.prepare(EngineRequest("a", "w5 w6", controls, **asked))
    assert refused.value.param == param


def test_neurons_of_a_pruned_model_keep_their_numbers() -> None:
    """One that was removed is refused, one that moved is read where it is now."""
    site = Site.parse("encoder.0.ffn")
    whole = tiny_with_text("marian")
    loaded = prune_model(whole, {site: [n for n in range(48) if n not in (0, 1, 2, 5)]}, mode="adaptive")
    with engine_of(loaded) as engine:
        request = EngineRequest("a", "w5 w6 w7", task="activations", neurons=("encoder.0.ffn[3,9]",))
        (found,) = engine.submit(request).result(60).payload
        with pytest.raises(AddressError, match="removed") as refused:
            engine.submit(
                EngineRequest("b", "w5", task="activations", neurons=("encoder.0.ffn[3]", "encoder.0.ffn[5]"))
            )
    assert found.neurons == ("encoder.0.ffn[3]", "encoder.0.ffn[9]")
    recorded, _, _ = alone(loaded, engine, request, [site])
    torch.testing.assert_close(torch.tensor(found.values), recorded[site][:, [0, 5]], atol=1e-5, rtol=1e-4)
    assert refused.value.param == "neurons[1]"


def test_a_set_stands_for_its_neurons() -> None:
    """In the order of the set, beside addresses."""
    loaded = tiny_with_text("marian")
    found = make_set(loaded.fingerprint)
    engine = Engine(RequestProcessor(loaded, SetCatalogue({"mood": found})))
    try:
        names = ("mood", "encoder.embed[2]", f"mood@{found.digest}")
        end = engine.submit(EngineRequest("a", "w5 w6", task="activations", neurons=names)).result(60)
    finally:
        engine.close()
    assert isinstance(end, Finished)
    expected = [f"{part.site}[{i}]" for part in found.sites for i in part.indices]
    assert list(end.payload[0].neurons) == [*expected, "encoder.embed[2]", *expected]


def test_a_set_brings_what_its_gates_see() -> None:
    """The read-out's own scores of what the model computes, in the batch as alone."""
    loaded = tiny_with_text("marian")
    found = make_set(loaded.fingerprint)
    (readout, *_) = found.readouts
    asked = EngineRequest("a", "w5 w6 w7", task="activations", neurons=("mood",))
    beside = EngineRequest("b", "w8 w9 w20 w21", task="activations", neurons=(f"{readout.site}[*]",))
    engine = Engine(RequestProcessor(loaded, SetCatalogue({"mood": found})))
    try:
        end, _ = [handle.result(60) for handle in engine.submit_all([asked, beside])]
        whole = engine.submit(EngineRequest("c", asked.prompt, task="activations", neurons=beside.neurons)).result(60)
    finally:
        engine.close()
    assert isinstance(end, Finished) and isinstance(whole, Finished)
    stack = next(stack for stack in end.payload if stack.stack == readout.site.stack)
    seen = next(one for one in stack.readouts if one.site == str(readout.site))
    values = np.asarray(whole.payload[0].values)
    expected = values[:, readout.indices] @ readout.weights.T + readout.bias
    assert seen.classes == readout.classes
    np.testing.assert_allclose(np.asarray(seen.scores), expected, atol=1e-4)
    assert whole.payload[0].readouts == ()


def test_a_neuron_is_described_by_its_calibration_and_its_sets() -> None:
    loaded = tiny_with_text("marian")
    found = make_set(loaded.fingerprint)
    part = found.sites[0]
    width = loaded.original_width(part.site)
    statistics = SiteStatistics(50, np.arange(width, dtype=np.float32), np.full(width, 2.0, np.float32))
    calibration = Calibration("tiny", loaded.fingerprint, {part.site: statistics}, {"name": "made up"})
    number = int(part.indices[0])
    known = describe(f"{part.site}[{number}]", loaded, [("mood@sha256:ab12", found)], calibration)
    assert (known.mean, known.std, known.tokens, known.width) == (float(number), 2.0, 50, width)
    assert known.sets[0].set == "mood" and found.ranked()[known.sets[0].rank - 1][0] == known.address
    other = next(i for i in range(width) if i not in part.indices)
    assert describe(f"{part.site}[{other}]", loaded, [("mood", found)], None).sets == ()
    assert describe(f"{part.site}[{other}]", loaded, [], None).mean is None
    for wrong in (f"{part.site}[*]", f"{part.site}[{width}]"):
        with pytest.raises((ControlError, AddressError)) as refused:
            describe(wrong, loaded, [], None)
        assert refused.value.param == "address"


def test_a_target_is_read_beside_a_request_with_a_trigger() -> None:
    """A trigger decides from step to step, but only about its own row."""
    loaded = tiny_with_text("marian")
    trigger = {"neuron": "decoder.0.resid[5]", "above": -9.0}
    control = parse_controls([{"neurons": "decoder.0.ffn[1-9]", "op": "shift", "value": 2.0, "when": trigger}])
    writing = EngineRequest("w", "w5 w6 w7", control, max_tokens=12, logit_bias=((EOS, -100.0),))
    reading = EngineRequest("r", "w5 w6", task="activations", neurons=("decoder.0.ffn[3]",), target="w8 w9 w20")
    with engine_of(loaded) as engine:
        solo = [engine.submit(request).result(60) for request in (writing, reading)]
        first = engine.submit(writing)
        beside = [engine.submit(EngineRequest(f"r{i}", **asked(reading))).result(60) for i in range(3)]
        together = engine.submit_all([writing, reading])
        assert first.result(60) == together[0].result(60) == solo[0]
        for end in (*beside, together[1].result(60)):
            expected = torch.tensor(solo[1].payload[0].values)
            torch.testing.assert_close(torch.tensor(end.payload[0].values), expected)
    assert solo[0].applied["controls"][0]["trigger"]["fired_at"] == [0]


def test_the_numbers_of_an_answer_are_limited_over_all_texts() -> None:
    """Before anything runs: three neurons on three tokens of each text, and two of the decoder on its three."""
    texts = [EngineRequest(str(i), "w5 w6", task="activations", neurons=("encoder.0.ffn[0-2]",)) for i in range(3)]
    both = EngineRequest(
        "b", "w5 w6", task="activations", neurons=("encoder.0.ffn[0-2]", "decoder.0.ffn[0,1]"), target="w8 w9"
    )
    engine = Engine(RequestProcessor(tiny_with_text("marian"), SetCatalogue({})), Capacity(values=18))
    try:
        assert [len(handle.result(60).payload) for handle in engine.submit_all(texts[:2])] == [1, 1]
        assert len(engine.submit(both).result(60).payload) == 2
        for submission, count in ((texts, 27), ([texts[0], both], 24)):
            with pytest.raises(LimitError, match=f"{count} numbers; at most 18") as refused:
                engine.submit_all(submission)
            assert refused.value.param == "neurons"
    finally:
        engine.close()


@pytest.mark.parametrize("doomed", ["encode", "generate"])
def test_a_text_that_raises_fails_alone(doomed: Task) -> None:
    """Those that were read with it are read again, one by one, and the slots are free afterwards."""
    loaded = tiny_with_text("t5")
    texts = ["w5 w6 w7", "w20 w21 w33", "w8 w9 w20", "w30 w31 w32 w34 w35 w36 w37 w38 w39 w40 w41 w42 w43 w44"]
    tasks: tuple[Task, ...] = ("activations", doomed, "activations", "encode")
    requests = [
        EngineRequest(str(i), text, controls_of(1, "encoder"), task=task, neurons=("encoder.1.ffn[3]",) * (i % 2 == 0))
        for i, (text, task) in enumerate(zip(texts, tasks, strict=True))
    ]

    def fail(_: Any, args: Any) -> None:
        if (args[0] == 33).any():
            raise RuntimeError("unlucky")

    with engine_of(loaded) as engine:
        clean = [engine.submit(request).result(60) for request in requests]
        encoder: Any = loaded.model.get_encoder()
        hook = encoder.embed_tokens.register_forward_pre_hook(fail)
        handles = engine.submit_all(requests)
        with pytest.raises(InternalError, match="unlucky"):
            handles[1].result(60)
        for place in (0, 2, 3):
            end = handles[place].result(60)
            assert end.applied == clean[place].applied
            assert end.payload == pytest.approx(clean[place].payload, abs=1e-5)
        hook.remove()
        assert engine.submit(requests[1]).result(60) == clean[1]
    rows: Any = engine.processor.runner
    assert len(rows._free) == 32


def asked(request: EngineRequest) -> dict[str, Any]:
    """What a request asks for, without its id."""
    return {name: value for name, value in vars(request).items() if name != "id"}
