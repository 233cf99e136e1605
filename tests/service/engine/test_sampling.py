"""What a request may ask of the choice of its tokens, against `generate` and against arithmetic."""

import random
from typing import Any

import pytest
import torch

from neurodial.service.engine.model.sampling import ModelDefaults, RowChooser
from neurodial.service.engine.types import Finished
from tests.service.engine.driving import Driver, solo
from tests.tiny import BOS, EOS, VOCABULARY, tiny

PROMPT = [5, 6, 7, 5, 6, 8, 9]
OTHERS = [[9, 8], [30, 31, 32, 33, 34, 35, 36, 37, 38], [11]]


def beside_others(driver: Driver, **settings: Any) -> tuple[list[int], Finished]:
    """One request's tokens and end, while three others run."""
    sequence = driver.sequence(PROMPT, 10, **settings)
    more = [driver.sequence(prompt, 6 + len(prompt), id=str(prompt)) for prompt in OTHERS]
    end = driver.run(more[0], sequence, *more[1:])[1]
    assert isinstance(end, Finished)
    return sequence.ids, end


SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
    ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
    ({"logit_bias": ((12, 3.0), (20, -50.0))}, {"sequence_bias": [[[12], 3.0], [[20], -50.0]]}),
    ({"temperature": 1.0, "top_k": 1, "seed": 3}, {}),
    ({"temperature": 0.7, "top_p": 1e-6, "seed": 3}, {}),
]


@pytest.mark.parametrize(("ours", "theirs"), SETTINGS, ids=lambda s: "-".join(s))
@pytest.mark.parametrize("name", ["llama", "bart"])
def test_settings_do_what_they_do_in_generate(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """A request that differs from its neighbours gets the tokens of `generate` with the same settings."""
    driver = Driver(tiny(name))
    ids, _ = beside_others(driver, **ours)
    assert ids == solo(driver, driver.sequence(PROMPT, 10), **theirs).tokens


MODEL_SETTINGS: list[dict[str, Any]] = [
    {"forced_bos_token_id": 7},
    {"forced_eos_token_id": EOS},
    {"forced_bos_token_id": 7, "forced_eos_token_id": EOS, "min_length": 6},
    {"no_repeat_ngram_size": 2, "begin_suppress_tokens": [40, 44], "min_new_tokens": 4},
    {"bad_words_ids": [[5], [8, 9], [44]], "repetition_penalty": 1.3, "renormalize_logits": True},
    {"length_penalty": 2.0, "early_stopping": True},
    {"length_penalty": 0.5, "early_stopping": "never", "forced_eos_token_id": EOS},
    {"eos_token_id": [EOS, 44, 23]},
]


@pytest.mark.parametrize("settings", MODEL_SETTINGS, ids=lambda s: "-".join(s))
@pytest.mark.parametrize(
    "name",
    ["marian", *(pytest.param(name, marks=pytest.mark.contracts) for name in ("t5", "pegasus", "mbart", "bart"))],
)
def test_a_model_s_own_settings_and_beams_are_those_of_generate(name: str, settings: dict[str, Any]) -> None:
    """Searches of two to four beams and greedy rows side by side, each as `generate` alone would have it."""
    model: Any = tiny(name)
    for key, value in settings.items():
        setattr(model.generation_config, key, value)
    driver, draw = Driver(model, max_rows=10), random.Random(3)
    sequences = [
        driver.sequence(
            [draw.randrange(2, VOCABULARY - 2) for _ in range(draw.randrange(1, 9))],
            draw.randrange(1, 11),
            id=str(number),
            num_beams=draw.choice((1, 2, 3, 4)),
        )
        for number in range(7)
    ]
    driver.run_at_random(sequences, draw, 0.0)
    for sequence in sequences:
        expected = searched(driver, sequence.prepared.prompt_ids, sequence.prepared.max_tokens, sequence.num_rows)
        assert sequence.ids == expected, f"{sequence.num_rows} beams"


def searched(driver: Driver, prompt: tuple[int, ...], max_tokens: int, beams: int) -> list[int]:
    """The best output of `generate`."""
    ids, model = torch.tensor([prompt]), driver.loaded.model
    generate: Any = model.generate
    with torch.inference_mode():
        output = generate(
            ids, attention_mask=torch.ones_like(ids), num_beams=beams, do_sample=False, max_new_tokens=max_tokens
        )
    tokens = output[0].tolist()[1:]
    ends = [place for place, token in enumerate(tokens) if token in driver.end_ids]
    return tokens[: ends[0]] if ends else tokens  # type: ignore[no-any-return]


def test_an_end_that_the_model_forces_is_an_end_for_length() -> None:
    """As `generate` has it: the last token is the end token, whatever the model wanted."""
    model: Any = tiny("bart")
    model.generation_config.forced_eos_token_id = EOS
    driver = Driver(model)
    sequence = driver.sequence(PROMPT, 3)
    (end,) = driver.run(sequence)
    assert isinstance(end, Finished)
    assert (end.reason, len(sequence.ids)) == ("length", 2)


def test_controls_act_on_every_beam() -> None:
    """The search under a control is that of `generate` under it."""
    from neurodial.control.runtime.generate import controlled

    driver = Driver(tiny("bart"))
    controls = [{"neurons": "decoder.1.ffn[0-9]", "op": "shift", "value": 3.0, "steps": [1, 5]}]
    sequence, plain = driver.sequence(PROMPT, 8, controls, num_beams=3), driver.sequence(PROMPT, 8, num_beams=3)
    driver.run(sequence, plain)
    with controlled(driver.loaded, [sequence.prepared.plan]):
        assert sequence.ids == searched(driver, tuple(PROMPT), 8, 3)
    assert plain.ids == searched(driver, tuple(PROMPT), 8, 3)
    assert plain.ids != sequence.ids


def test_a_seed_decides_whatever_runs_beside_it() -> None:
    """Alone or not, and again; another seed gives another text."""
    driver = Driver(tiny("qwen2"))
    texts = {seed: beside_others(driver, temperature=1.5, seed=seed)[0] for seed in range(4)}
    for seed, ids in texts.items():
        sequence = driver.sequence(PROMPT, 10, temperature=1.5, seed=seed)
        driver.run(sequence)
        assert sequence.ids == ids
    assert len({tuple(ids) for ids in texts.values()}) > 2


def test_samples_follow_the_probabilities() -> None:
    """Over many seeds, within what chance allows."""
    driver = Driver(tiny("llama"))
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5]])
    counts, size = torch.zeros(5), 4000
    for seed in range(size):
        sequence = driver.sequence([1], 2, temperature=0.8, seed=seed)
        defaults = ModelDefaults.of(driver.loaded.model)
        defaults.config.suppress_tokens = None
        counts[RowChooser(sequence, defaults, torch.device("cpu")).choose(logits.clone())] += 1
    expected = (logits[0] / 0.8).softmax(-1)
    assert (counts / size - expected).abs().max() < 4 * (0.25 / size) ** 0.5


def test_logprobs() -> None:
    """Of the token and of the likeliest ones, before any bias."""
    driver = Driver(tiny("gpt2"))
    driver.runner._texts = lambda _, ids: [str(i) for i in ids]
    ids, end = beside_others(driver, logprobs=3, logit_bias=((BOS, 1000.0),))
    assert set(ids) == {BOS}
    model: Any = driver.loaded.model
    expected = model(torch.tensor([PROMPT])).logits[0, -1].detach().log_softmax(-1)
    first = end.logprobs[0]
    assert len(end.logprobs) == len(ids)
    assert first.token == str(BOS)
    assert first.logprob == pytest.approx(float(expected[BOS]), abs=1e-4)
    assert [t for t, _ in first.top] == [str(i) for i in expected.topk(3).indices.tolist()]
    assert [v for _, v in first.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "t5", "bart", "llama"])
def test_texts_that_are_only_read(name: str) -> None:
    """The mean state of each, as if it had been read alone; padding takes no part, and controls keep to their rows."""
    driver = Driver(tiny(name), max_rows=8, prefill_tokens=10_000)
    stack = driver.loaded.sites.stacks[0]
    controls = [{"neurons": f"{stack}.0.ffn[0-5]", "op": "shift", "value": 1.0}]
    lengths = [3, 20, 4, 5, 30, 3]
    prompts = [[(7 * i + 3 * j) % 50 + 3 for j in range(n)] for i, n in enumerate(lengths)]
    rows = [driver.sequence(p, 0, controls if i == 2 else (), id=str(i), task="encode") for i, p in enumerate(prompts)]
    together = driver.run(*rows)
    model: Any = driver.loaded.model
    module = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    for i, (prompt, end) in enumerate(zip(prompts, together, strict=True)):
        assert isinstance(end, Finished)
        (alone,) = driver.run(driver.sequence(prompt, 0, controls if i == 2 else (), task="encode"))
        assert isinstance(alone, Finished)
        assert torch.tensor(end.payload) == pytest.approx(torch.tensor(alone.payload), abs=1e-4)
        with torch.inference_mode():
            plain = module(input_ids=torch.tensor([prompt])).last_hidden_state[0].mean(0)
        assert (torch.tensor(end.payload) - plain).abs().max().item() > 1e-2 or i != 2
        assert (torch.tensor(end.payload) - plain).abs().max().item() < 1e-4 or i == 2
    assert together[2].applied["digest"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "option",
    [
        {},
        {"logprobs": 1},
        {"temperature": 0.7, "seed": 3},
        {"repetition_penalty": 1.2},
        {"logit_bias": ((BOS, 0.5),)},
        {"num_beams": 2},
        {"num_beams": 3, "length_penalty": 2.0},
    ],
)
def test_a_forced_end_is_a_cut_unless_the_model_wanted_it(option: dict[str, Any]) -> None:
    """Whatever else is asked for."""
    driver = Driver(tiny("marian"))
    driver.runner._texts = lambda _, ids: [str(i) for i in ids]
    settings: Any = driver.loaded.model.generation_config
    settings.forced_eos_token_id = EOS
    wants_end = {"logit_bias": (*option.get("logit_bias", ()), (EOS, 100.0))}
    cut = driver.run(driver.sequence(PROMPT, 3, **option | {"logit_bias": ((EOS, -50.0),)}))[0]
    ended = driver.run(driver.sequence(PROMPT, 1, **option | wants_end))[0]
    assert isinstance(cut, Finished) and isinstance(ended, Finished)
    assert (cut.reason, cut.completion_tokens) == ("length", 2)
    assert (ended.reason, ended.completion_tokens) == ("stop", 0)
