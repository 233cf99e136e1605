"""What a model has no rows for is counted, and reaches every report; nothing is guessed in its place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.errors import NeurodialWarning
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.blocks import join_blocks
from neurodial.interpret.activations.calibration import calibrate_model
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.activations.store import ActivationStore
from neurodial.interpret.activations.storing import extract_to_store
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.studies.explain.job import explain
from neurodial.interpret.studies.grouping.job import group

SITE = Site.parse("encoder.1.resid")
LONG = "the " * 80  # the tiny model's 64 tokens hold 21 of them, of three tokens each, and the end
EXPECTED = {"not_aligned": 1, "words_cut": 59, "texts_cut": 1, "examples": [3, 4]}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Labelled by word; the last two texts cannot be read as they are."""
    texts = [
        f"{who} {verb} the {thing} ." for who in ("She", "He") for verb in ("opens", "sees") for thing in ("door",)
    ]
    known = [Sentence.of(text, {1: "verb"}, other="none") for text in [*texts[:3], LONG]]
    unread = Sentence("\u200b\u200b", ((0, 1), (1, 2)), ("verb", "none"))
    more = [Sentence.of(text, {1: "verb"}, other="none") for text in texts * 20]
    return Corpus.of("odd", [Example(number, one) for number, one in enumerate([*known, unread, *more])])


def test_texts_beyond_the_models_length_and_texts_that_are_not_aligned(loaded: LoadedModel, corpus: Corpus) -> None:
    left_out = LeftOut()
    plan = Extraction((SITE,), ("word", "piece"))
    rows = join_blocks([b for b in extract(loaded, corpus, ("none", "verb"), plan, left_out) if b.level == "word"])
    assert left_out.report() == EXPECTED
    assert str(left_out) == (
        "1 text that could not be aligned with tokens; 59 words beyond the model's length, in 1 text "
        "(numbers, from 0: 3, 4)"
    )
    assert np.bincount(rows.examples)[:5].tolist() == [5, 5, 5, 21, 0]
    pieces = [b for b in extract(loaded, corpus, ("none", "verb"), plan) if b.level == "piece"]
    assert 4 not in join_blocks(pieces).examples, "tokens of unknown words teach a gate nothing"


def test_a_word_in_which_the_text_was_cut_has_no_row(loaded: LoadedModel) -> None:
    """What its first pieces do is not what its last piece does."""
    text = "the " * 20 + "houses"
    left_out = LeftOut()
    list(extract(loaded, [Example(0, Sentence.of(text))], ("none",), Extraction((SITE,)), left_out))
    assert left_out.report() == {"words_cut": 1, "texts_cut": 1, "examples": [0]}
    exact = LeftOut()
    list(extract(loaded, [Example(0, Sentence.of("the " * 21))], ("none",), Extraction((SITE,)), exact))
    assert not exact


def test_special_tokens_in_a_text_are_text(loaded: LoadedModel) -> None:
    examples = [Example(0, Sentence.of("She opens </s> the <pad> door ."))]
    left_out = LeftOut()
    (block,) = extract(loaded, examples, ("none",), Extraction((SITE,)), left_out)
    assert not left_out
    assert block.words.tolist() == list(range(len(examples[0].source.words)))


def test_a_store_counts_over_its_windows_and_says_it_again(loaded: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    plan = Extraction((SITE,), ("word", "piece"), window=2)
    with pytest.warns(NeurodialWarning, match="odd: left out: 1 text that could not be aligned"):
        extract_to_store(loaded, corpus, plan, tmp_path / "store")
    kept = ActivationStore.open(tmp_path / "store")
    assert kept.left_out.report() == EXPECTED
    with pytest.warns(NeurodialWarning, match="59 words beyond"):
        found = discover(
            loaded, kept.opened_corpus(), Discovery("verb", "probeless", top=4, evidence="none"), store=kept
        )
    assert found.provenance["corpus"]["left_out"] == EXPECTED


def test_every_report_tells(loaded: LoadedModel, corpus: Corpus) -> None:
    def of_discovery() -> Any:
        job = Discovery("verb", "probeless", top=4, evidence="none")
        return discover(loaded, corpus, job).provenance["corpus"]["left_out"]

    reports: list[Callable[[], Any]] = [
        of_discovery,
        lambda: calibrate_model(loaded, corpus).corpus["left_out"],
        lambda: explain(loaded, corpus, ["encoder.1.resid[3]"]).to_dict()["left_out"],
        lambda: group([loaded], corpus, "clustering").to_dict()["left_out"],
    ]
    for report in reports:
        with pytest.warns(NeurodialWarning, match="left out"):
            found = report()
        assert {name: found[name] for name in ("not_aligned", "words_cut")} == {"not_aligned": 1, "words_cut": 59}


def test_nothing_is_said_where_nothing_is_left_out(loaded: LoadedModel) -> None:
    corpus = Corpus.of("plain", [Example(0, Sentence.of("She opens the door ."))])
    assert "left_out" not in calibrate_model(loaded, corpus).corpus
