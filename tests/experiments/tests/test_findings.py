"""What the page of findings rests on: single neurons by hand, and a fine-tuned copy; and the pictures."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Annotation, Corpus, Example, Sentence
from tests.conftest import SENTENCES
from tests.documentation.filling import RESULTS
from tests.experiments import pictures
from tests.experiments.results.fine_tuned import TASK, fine_tuned
from tests.experiments.results.single_neurons import MARKED, single_neurons


@pytest.mark.parametrize(
    ("draw", "result"),
    [
        (pictures.layers, "findings"),
        (pictures.methods, "findings"),
        (pictures.tense, "tense"),
        (pictures.distillation, "distillation"),
    ],
)
def test_pictures_are_drawn_of_what_is_kept(draw: Callable[[Any, Path], None], result: str, tmp_path: Path) -> None:
    draw(json.loads((RESULTS / f"{result}.json").read_text(encoding="utf-8")), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def annotated(text: str, *rows: tuple[str, str, str, int]) -> Sentence:
    annotations = tuple(Annotation(lemma, upos, "", (), deprel, head) for lemma, upos, deprel, head in rows)
    sentence = Sentence.of(text)
    return Sentence(text, sentence.words, tuple("x" for _ in sentence.words), annotations)


def test_words_are_marked_by_their_annotation() -> None:
    sentence = annotated(
        "She made him leave ( May )",
        ("she", "PRON", "nsubj", 1), ("make", "VERB", "root", -1), ("he", "PRON", "obj", 1),
        ("leave", "VERB", "xcomp", 1),
        ("(", "PUNCT", "punct", 5), ("May", "PROPN", "nmod", 3), (")", "PUNCT", "punct", 5),
    )  # fmt: skip
    marks = {name: [n for n, marked in enumerate(rule(sentence)) if marked] for name, rule in MARKED.items()}
    assert marks["causativity"] == [1]
    assert marks["inside parentheses"] == [5]
    assert marks["inside a noun's modifier"] == [4, 5, 6]
    assert marks["negation"] == marks["intensification"] == []


def test_a_neuron_that_is_chosen_on_one_half_is_scored_on_the_other(tiny_marian: LoadedModel) -> None:
    examples = []
    for number, text in enumerate(SENTENCES):
        words = [Sentence.of(text).word(n) for n in range(len(Sentence.of(text).words))]
        rows = [("never" if w == "door" else w, "NOUN", "dep", -1) for w in words]
        examples.append(Example(number, annotated(text, *rows)))
    corpus = Corpus.of("doors", examples)
    found = single_neurons(tiny_marian, corpus, [Site.parse("encoder.embed"), Site.parse("encoder.0.resid")])
    assert found["neurons"] == 64
    assert set(found["properties"]) == {"negation"}  # what five words of a half do not show is left out
    area = found["properties"]["negation"]["area"]
    assert max(area, 1 - area) > 0.9  # every door has nearly the same embedding
    assert abs(found["position"]["correlation"]) <= 1


def test_a_copy_is_fine_tuned(tiny_marian: LoadedModel, tiny_marian_path: Path, tmp_path: Path) -> None:
    rows = ["split\tlabel\ttoken_id\ttext"]
    for number, text in enumerate(SENTENCES):
        label = "past" if "ed" in text or "saw" in text else "pres"
        rows.append(f"{'va' if number % 3 == 0 else 'tr'}\t{label}\t-\t{text}")
    (tmp_path / "probing").mkdir()
    with gzip.open(tmp_path / "probing" / f"{TASK}.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(rows) + "\n")
    tuned, accuracy = fine_tuned(tiny_marian_path, tmp_path)
    assert 0.4 < accuracy <= 1
    before, after = (m.model.get_encoder().layers[0].fc1.weight.detach().numpy() for m in (tiny_marian, tuned))
    assert not np.allclose(before, after)
