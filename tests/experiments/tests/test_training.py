"""The demo's training loop on a tiny model: it learns, resumes and exports a plain checkpoint."""

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import MarianMTModel, MarianTokenizer

from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.grammars.tense import generate_pairs
from tests.experiments.demo_en_es.training import TranslationTraining, export
from tests.experiments.demo_en_es.training_loop import Recipe, pooled_dropout

STEP = 0.1  # seconds that a step takes by the tests' clock
RECIPE = Recipe(minutes=39.5 * STEP / 60, warmup_steps=5, peak_lr=5e-3, batch_tokens=256, averaged=2)


@pytest.fixture
def pairs(tiny_marian: LoadedModel) -> list[tuple[list[int], list[int]]]:
    grammar = generate_pairs(60)
    source = tiny_marian.tokenizer([p.present for p in grammar])["input_ids"]
    target = tiny_marian.tokenizer(text_target=[p.past for p in grammar])["input_ids"]
    return list(zip(source, target, strict=True))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of the tests' own: the number of steps does not depend on the machine."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) * STEP)


def fresh_model(path: Path) -> MarianMTModel:
    torch.manual_seed(0)
    return MarianMTModel.from_pretrained(path)


def test_every_row_is_in_one_batch_of_an_epoch(
    tiny_marian_path: Path, pairs: list[tuple[list[int], list[int]]]
) -> None:
    training = TranslationTraining(fresh_model(tiny_marian_path), pairs, RECIPE)
    batches = training.rows(0)
    assert sorted(i for rows in batches for i in rows) == list(range(len(pairs)))
    assert all(len(rows) * max(len(pairs[i][1]) for i in rows) <= RECIPE.batch_tokens for rows in batches)
    assert batches == training.rows(0)
    assert batches != training.rows(1)


def test_training_resumes_learns_and_exports(
    tiny_marian: LoadedModel, tiny_marian_path: Path, pairs: list[tuple[list[int], list[int]]], tmp_path: Path
) -> None:
    state = tmp_path / "checkpoint.pt"
    first = TranslationTraining(fresh_model(tiny_marian_path), pairs, RECIPE)
    first.run(state, every=1.0)
    again = TranslationTraining(fresh_model(tiny_marian_path), pairs, replace(RECIPE, minutes=79.5 * STEP / 60))
    again.load_state_dict(torch.load(state, weights_only=True))
    assert (again.step, again.epoch, again.position) == (first.step, first.epoch, first.position)
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value)
    again.run(state)
    assert (first.step, again.step) == (40, 80)
    assert first.num_averaged == RECIPE.averaged

    def loss(model: MarianMTModel) -> float:
        source, target = torch.tensor([pairs[0][0]]), torch.tensor([pairs[0][1]])
        with torch.inference_mode():
            return float(model.float().eval()(input_ids=source, labels=target).loss)

    assert isinstance(tiny_marian.tokenizer, MarianTokenizer)
    export(again, tiny_marian.tokenizer, tmp_path / "out")
    exported = MarianMTModel.from_pretrained(tmp_path / "out")
    assert exported.dtype == torch.bfloat16
    assert loss(exported) < loss(fresh_model(tiny_marian_path)) - 0.5


def test_pooled_dropout_drops_and_rescales_and_is_put_back() -> None:
    original = torch.nn.functional.dropout
    with pooled_dropout(0, size=1 << 16):
        x = torch.nn.functional.dropout(torch.ones(1000), p=0.25, training=True)
        assert torch.equal(torch.nn.functional.dropout(x, p=0.25, training=False), x)
    assert 0.15 < float((x == 0).float().mean()) < 0.35
    torch.testing.assert_close(x[x != 0], torch.full_like(x[x != 0], 4 / 3), rtol=1e-2, atol=0)
    assert torch.nn.functional.dropout is original
