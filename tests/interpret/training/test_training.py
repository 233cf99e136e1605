"""The trainer: it learns, keeps frozen weights bit for bit, stops, is seeded, and goes on where it was stopped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from neurodial.control.errors import BadInput, CorpusError, ModelError, NeurodialError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.surgery.pruning.choosing import choose_kept
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.control.surgery.saving import save_pruned
from neurodial.interpret.activations.losses import TokenRow
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.training.descent import card, descendant
from neurodial.interpret.training.objective import Objective
from neurodial.interpret.training.settings import Settings, TrainingData
from neurodial.interpret.training.trainer import train
from tests.tiny import VOCABULARY, load_tiny

SETTINGS = Settings(steps=12, learning_rate=5e-3, batch_tokens=128, evaluations=3)
MASKED = "model.encoder.layers.0.fc1.weight"


@pytest.fixture(scope="module")
def data(loaded: LoadedModel) -> TrainingData:
    words = [f"{who} {verb} the {thing}." for who in ("She", "He", "The boy") for verb in ("opens", "sees", "likes")
             for thing in ("door", "book", "house", "tall boy")]  # fmt: skip
    examples = [Example(i, Sentence.of(text), target=Sentence.of(text)) for i, text in enumerate(words)]
    return TrainingData.of(loaded, Corpus.of("train", examples[:28]), Corpus.of("dev", examples[28:]))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_it_learns_and_leaves_the_model_alone(loaded: LoadedModel, data: TrainingData) -> None:
    before = weights(loaded.model)
    outcome = train(loaded, data, SETTINGS)
    assert outcome.dev_loss < outcome.dev_loss_before - 0.2
    assert (outcome.steps, outcome.stopped, [p["step"] for p in outcome.history]) == (12, "budget", [4, 8, 12])
    assert outcome.dev_loss == min(point["dev_loss"] for point in outcome.history)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    assert not same(outcome.model, loaded.model)


def test_the_seed_decides_the_weights(loaded: LoadedModel, data: TrainingData) -> None:
    first, again, other = (train(loaded, data, replace(SETTINGS, steps=3, seed=s)).model for s in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_masked_weights_stay_bit_for_bit(loaded: LoadedModel, data: TrainingData) -> None:
    start = dict(loaded.model.named_parameters())
    rows = torch.zeros(64, 1)
    rows[5:20] = 1
    masks = {MASKED: rows, "model.decoder.layers.1.fc2.bias": torch.zeros(())}
    trained = dict(train(loaded, data, SETTINGS, gradient_masks=masks).model.named_parameters())
    changed = (trained[MASKED] != start[MASKED]).any(dim=1)
    assert changed.nonzero().flatten().tolist() == list(range(5, 20))
    assert torch.equal(trained["model.decoder.layers.1.fc2.bias"], start["model.decoder.layers.1.fc2.bias"])
    assert not torch.equal(trained["model.decoder.layers.1.fc1.bias"], start["model.decoder.layers.1.fc1.bias"])


def pruned(loaded: LoadedModel) -> LoadedModel:
    sites = [info.site for stack in loaded.sites.stacks for info in loaded.sites.of(stack, "ffn")]
    return prune_model(loaded, choose_kept(loaded, {s: torch.arange(64) % 7 for s in sites}, 0.5))


def test_distillation_brings_a_pruned_model_back_to_its_teacher(
    loaded: LoadedModel, data: TrainingData, tmp_path: Path
) -> None:
    small = pruned(loaded)
    settings = replace(SETTINGS, steps=30, ce=0.0, hidden=1.0)
    outcome = train(small, data, settings, teacher=loaded)
    assert outcome.dev_loss < 0.5 * outcome.dev_loss_before
    child = descendant(small, outcome.model, {"kind": "recovered"})
    assert child.lineage is not None
    assert [step["kind"] for step in child.lineage.steps] == ["pruned", "recovered"]
    assert child.lineage.ancestors == (small.fingerprint, loaded.fingerprint)
    assert child.lineage.changed_since(loaded.fingerprint)
    save_pruned(child, tmp_path / "out")
    again = load_model(tmp_path / "out")
    assert same(again.model, child.model)
    assert again.original(again.sites.of("encoder", "ffn")[0].site, [0]) == small.original(
        small.sites.of("encoder", "ffn")[0].site, [0]
    )
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").config.encoder_ffn_dim == 32
    assert "pruned, then recovered" in card(child, "Half", ["A test."], [("BLEU", "1")])


def test_the_losses_are_what_they_say(loaded: LoadedModel, data: TrainingData) -> None:
    """The model as its own teacher has no divergence and no distance; the cross-entropy is transformers' own."""
    from neurodial.interpret.activations.losses import loss_batch

    batch = loss_batch(loaded, data.train[:4], torch.Generator())

    def loss(**weight: float) -> float:
        settings = Settings(steps=1, **{"ce": 0.0, "kl": 0.0, "hidden": 0.0} | weight)  # type: ignore[arg-type]
        with torch.no_grad():
            return float(Objective(loaded.model, loaded.family, settings, loaded)(batch)["loss"])

    with torch.no_grad():
        expected = loaded.model(**batch.inputs, labels=batch.labels).loss
    assert loss(ce=1.0) == pytest.approx(float(expected), rel=1e-5)
    smooth = torch.nn.functional.cross_entropy(
        loaded.model(**batch.inputs).logits[batch.labels != -100], batch.labels[batch.labels != -100],
        label_smoothing=0.2,
    )  # fmt: skip
    assert loss(ce=1.0, label_smoothing=0.2) == pytest.approx(float(smooth), rel=1e-5)
    assert loss(kl=1.0) == loss(kl=1.0, temperature=2.0) == pytest.approx(0.0, abs=1e-6)
    assert loss(hidden=1.0) == 0.0


@pytest.mark.parametrize("name", ["llama", "bert", "bart"])
def test_every_family_trains(name: str) -> None:
    tiny = load_tiny(name)

    class Tokens:
        pad_token_id, mask_token_id, all_special_ids = 0, 3, (0, 1, 3)

    tiny = replace(tiny, tokenizer=Tokens())  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(0)
    rows = [
        TokenRow(*(tuple(torch.randint(4, VOCABULARY - 2, (6,), generator=draw).tolist()) for _ in range(2)))
        for _ in range(12)
    ]
    settings = replace(SETTINGS, steps=4, hidden=0.5, precision="bfloat16")
    outcome = train(tiny, TrainingData(rows[:8], rows[8:]), settings, teacher=tiny)
    assert outcome.steps == 4


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    loaded: LoadedModel, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(loaded, data, SETTINGS)
    calls, forward = [0], Objective.forward

    def interrupted(self: Objective, batch: Any) -> Any:
        calls[0] += self.training or torch.is_grad_enabled()
        if calls[0] == 7:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(Objective, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(loaded, data, SETTINGS, work=tmp_path / "work")
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["checkpoint-4", "run.json"]
    with pytest.raises(BadInput, match="holds another training run, with other settings"):
        train(loaded, data, replace(SETTINGS, seed=5), work=tmp_path / "work")
    (tmp_path / "work" / "checkpoint-5").mkdir()  # half-written: it lacks its mark
    resumed = train(loaded, data, SETTINGS, work=tmp_path / "work")
    assert calls[0] == 7 + 8  # steps 5 to 12
    assert same(whole.model, resumed.model)
    assert resumed.history == whole.history
    assert list(tmp_path.iterdir()) == []


def test_it_stops_early_and_keeps_the_best(loaded: LoadedModel, data: TrainingData) -> None:
    worse = TrainingData(data.train, [TokenRow(row.source, row.target[::-1]) for row in data.dev])
    settings = replace(SETTINGS, steps=200, evaluations=50, patience=2, learning_rate=0.02)
    outcome = train(loaded, worse, settings)
    assert outcome.stopped == "early"
    assert outcome.steps < 200
    assert outcome.dev_loss <= min([p["dev_loss"] for p in outcome.history] + [outcome.dev_loss_before])


def test_without_any_gain_the_model_stays_what_it_was(loaded: LoadedModel, data: TrainingData) -> None:
    outcome = train(loaded, data, replace(SETTINGS, steps=2, ce=0.0, learning_rate=0.1), teacher=loaded)
    assert (outcome.best_step, outcome.dev_loss) == (0, outcome.dev_loss_before)
    assert same(outcome.model, loaded.model)


def test_a_budget_in_minutes_ends(loaded: LoadedModel, data: TrainingData) -> None:
    outcome = train(loaded, data, replace(SETTINGS, steps=None, minutes=0.01, clock="cpu"))
    assert outcome.stopped == "budget"
    assert 0.6 <= outcome.seconds < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "needs a budget"),
        ({"steps": 0}, "steps 0: not a positive number"),
        ({"minutes": -1.0}, "minutes -1: not a positive"),
        ({"learning_rate": float("nan")}, "learning_rate nan"),
        ({"warmup": 1.0}, "warmup 1: not a share"),
        ({"kl": -0.5}, "kl -0.5: less than zero"),
    ],
)
def test_settings_are_checked(loaded: LoadedModel, data: TrainingData, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        train(loaded, data, replace(SETTINGS, **change))


def test_what_does_not_fit_is_refused(loaded: LoadedModel, data: TrainingData, tmp_path: Path) -> None:
    def refused(error: type[NeurodialError], message: str, *args: Any, **options: Any) -> None:
        with pytest.raises(error, match=message):
            train(*(args or (loaded, data, SETTINGS)), **options)

    refused(CorpusError, "no text for dev", loaded, TrainingData(data.train, []), SETTINGS)
    refused(BadInput, "no such parameter", gradient_masks={"fc1.weight": torch.ones(1)})
    refused(BadInput, "does not fit", gradient_masks={MASKED: torch.ones(3)})
    refused(BadInput, "another architecture or vocabulary", teacher=load_tiny("marian"))
    frozen = {name: torch.zeros(()) for name, _ in loaded.model.named_parameters()}
    refused(BadInput, "every parameter is frozen", gradient_masks=frozen)
    (tmp_path / "notes.txt").write_text("mine")
    refused(BadInput, "holds no training run", work=tmp_path)
    refused(ModelError, "not a number any more", loaded, data, replace(SETTINGS, learning_rate=1e30, clip_norm=1e30))
