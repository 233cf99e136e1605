"""Task masks: the set's control does per request what cutting the same neurons out does for good."""

from dataclasses import replace
from pathlib import Path

import pytest

from neurodial.control import Control, LoadedModel, NeuronSet, SetCatalogue, compile_controls
from neurodial.control.errors import BadInput
from neurodial.interpret.activations.calibration import calibrate_model
from neurodial.interpret.activations.generation import generate_ids
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.studies.pruning.masking import mask_set
from neurodial.interpret.studies.pruning.sweep import Way, prune_to, rank_units

TEXTS = ("She opens the door.", "The tall boy likes the book.", "He saw the house.", "He closed the door.")
WAY = Way("log-odds+activation", encoder=0.75)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.of("questions", [Example(i, Sentence.of(t), target=Sentence.of(t)) for i, t in enumerate(TEXTS)])


def test_a_mask_does_what_pruning_does(loaded: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    scores = rank_units(loaded, WAY, corpus=corpus).scores
    found = mask_set(loaded, scores, 0.5, WAY, calibrate_model(loaded, corpus), concept="questions")
    found.save(tmp_path / "questions.safetensors")
    catalogue = SetCatalogue({"questions": NeuronSet.load(tmp_path / "questions.safetensors")})
    assert found.num_neurons == sum(len(values) for values in scores.values()) // 2
    compiled = compile_controls(loaded, [Control(set="questions")], catalogue)
    masked = generate_ids(loaded, TEXTS, compiled, max_new_tokens=8)
    cut = prune_to(loaded, scores, 0.5, WAY)
    assert masked == generate_ids(cut, TEXTS, max_new_tokens=8)
    assert masked != generate_ids(loaded, TEXTS, max_new_tokens=8)


def test_the_top_of_a_mask_are_the_least_important_neurons(loaded: LoadedModel, corpus: Corpus) -> None:
    scores = rank_units(loaded, WAY, corpus=corpus).scores
    found = mask_set(loaded, scores, 0.5, WAY, calibrate_model(loaded, corpus), concept="questions")
    for part in found.sites:
        least = scores[part.site][part.indices]
        assert (least[:-1] <= least[1:]).all()
        assert set(part.indices[:5]) == set(scores[part.site].argsort(kind="stable")[:5])
    with pytest.raises(BadInput, match="FFN neurons to zero"):
        mask_set(loaded, scores, 0.5, replace(WAY, to="mean"), calibrate_model(loaded, corpus), concept="x")
