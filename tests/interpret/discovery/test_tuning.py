"""Maps fitted through the model: on a tiny random model the fit must lower the loss that it says it lowers."""

from dataclasses import replace

import numpy as np
import pytest

from neurodial.control.errors import CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.discovery.tuned import pairs_of
from neurodial.interpret.discovery.tuning import TuningSettings

JOB = Discovery(
    "tense",
    sites=("encoder.1.resid",),
    top=6,
    tuning=TuningSettings(steps=30, batch=16, lr=0.05, nested=(2,)),
    tuning_pairs=60,
    evidence="none",
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus("grammar:tense?count=120&seed=1")


def test_tuning_lowers_the_held_out_loss_and_keeps_the_asked_number(tiny_marian: LoadedModel, corpus: Corpus) -> None:
    found = discover(tiny_marian, corpus, JOB)
    report = found.evidence["tuning"]
    assert report["examples"] > 20
    for label in ("present", "past"):
        assert report[label]["loss"] < report[label]["loss_uncontrolled"]
    assert found.num_neurons == 6
    assert found.recommended.op == "map"
    assert found.recommended.strength == {"present": 1.0, "past": 1.0}
    assert found.sites[0].maps["past"].weight.shape == (6, 32)
    assert list(np.abs(found.sites[0].scores)) == sorted(np.abs(found.sites[0].scores), reverse=True)


def test_the_same_seed_gives_the_same_set(tiny_marian: LoadedModel, corpus: Corpus) -> None:
    quick = replace(JOB, tuning=TuningSettings(steps=4, batch=8))
    assert discover(tiny_marian, corpus, quick).digest == discover(tiny_marian, corpus, quick).digest
    assert tiny_marian.model.get_input_embeddings().weight.requires_grad


def test_tuning_needs_minimal_pairs(tiny_marian: LoadedModel) -> None:
    texts = [f"she walk{'s' if i % 2 else 'ed'} the dog {i}" for i in range(60)]
    labels = {i: {1: "present" if i % 2 else "past"} for i in range(60)}
    examples = [Example(i, Sentence.of(t, labels[i], other="none")) for i, t in enumerate(texts)]
    single = Corpus.of("words", examples)
    with pytest.raises(CorpusError, match="minimal pairs"):
        discover(tiny_marian, single, replace(JOB, method="probeless"))


def test_pairs_keep_to_their_split(corpus: Corpus) -> None:
    train, rest = pairs_of(corpus, ("train",)), pairs_of(corpus, ("dev", "test"))
    assert len(train) + len(rest) == 120
    assert not {p["present"] for p in train.values()} & {p["present"] for p in rest.values()}
