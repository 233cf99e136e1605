"""The results page: what the findings say of given figures, single neurons by hand, and a fine-tuned copy."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Annotation, Corpus, Example, Sentence
from tests.conftest import SENTENCES
from tests.experiments.demo_en_es import contrast_page
from tests.experiments.results.results_findings import findings
from tests.experiments.results.results_page import write_page
from tests.experiments.results.results_single import MARKED, single_neurons
from tests.experiments.results.results_tuned import TASK, fine_tuned

CONCEPTS = ("tense", "number", "negation", "part of speech")


def layer_figures(stack: str, *accuracies: float) -> dict[str, Any]:
    """An embedding and three layers."""
    site = {"selectivity": 0.2, "significant": 0.5}
    found: dict[str, Any] = {f"{stack}.embed": site | {"accuracy": accuracies[0]}}
    for n, accuracy in enumerate(accuracies[1:]):
        found[f"{stack}.{n}.ffn"] = site | {"accuracy": accuracy, "salient": (0.5, 0.3, 0.2)[n]}
        found[f"{stack}.{n}.resid"] = site | {"accuracy": accuracy}
    return {"majority": 0.5, "sites": found}


def stack_figures(stack: str) -> dict[str, Any]:
    effect = {"effect": 1.0, "half_width_95": 0.1, "matched_random": 0.0}
    curve: dict[str, Any] = {"accuracy": {"5": 0.8, "20": 0.9}, "selectivity": {"5": 0.1, "20": 0.2}}
    curve |= {"move": {"5": effect, "20": effect}, "ablate": {"5": effect, "20": effect}}
    method = {**curve, "avg_overlap": 0.7, "neuron_vote": 0.6, "seconds": 1.0, "planted": {"one": 0.5}}
    methods = {"probeless": method, "mean-difference": method | {"avg_overlap": 0.6}}
    report = {"settings": {"top": 20}, "neurons": 256, "methods": methods, "random": curve, "left_out": {}}
    return {
        "corpus": {"name": "c", "labels": {"a": 3, "b": 3}},
        "layers": layer_figures(stack, 0.7, 0.9, 0.9, 0.9),
        "redundancy": {"all": 0.9, "tenth": 0.89, "without_tenth": 0.88, "neurons": 256, "groups": 64},
        "methods": report | {"recommendation": {"method": "probeless"}},
    }


@pytest.fixture
def figures() -> dict[str, Any]:
    return {
        "concepts": {c: {stack: stack_figures(stack) for stack in ("encoder", "decoder")} for c in CONCEPTS},
        "overlap": {"neurons": 30, "chance": 3.5, "shared": {"a / b": 9}, "carry": {"1": 40, "2": 10}},
        "erased": {"none": 40.0, "top": 20.0, "bottom": 38.0, "random": 35.0},
        "size": "small",
        "sentences": 100,
        "relations": layer_figures("encoder", 0.5, 0.6, 0.7, 0.8),
        "language_model": dict.fromkeys(CONCEPTS, layer_figures("decoder", 0.5, 0.6, 0.7, 0.8)),
        "fine_tuned": {"task": TASK, "accuracy": 0.8, "layers": layer_figures("encoder", 0.7, 0.9, 0.8, 0.7)},
        "single": {
            "words": 100,
            "neurons": 50,
            "properties": {"negation": {"neuron": "encoder.0.ffn[3]", "area": 0.05, "share": 0.01}},
            "position": {"neuron": "encoder.embed[1]", "correlation": -0.5},
        },
    }


def test_findings_hold_or_not_by_the_figures(figures: dict[str, Any]) -> None:
    verdicts = {said.split()[0]: (text, verdict) for said, text, verdict in findings(figures)}
    assert verdicts["Core"] == (verdicts["Core"][0], "yes")  # part of speech in layer 0, relations in layer 2
    assert "relation 2" in verdicts["Core"][0]
    assert verdicts["Fine-tuning"][1] == "in part"  # more is lost at the top, but the salient neurons stay
    assert verdicts["Auto-encoders"][1] == "in part"  # 33 % against 100 % of the depth
    assert "negation 0.95" in verdicts["Single"][0]
    assert verdicts["Single"][1] == "in part"
    assert verdicts["Erasing"][1] == "yes"
    figures["relations"] = layer_figures("encoder", 0.8, 0.8, 0.8, 0.8)
    assert next(v for said, _, v in findings(figures) if said.startswith("Core")) == "no"


def test_the_page_has_its_figures_beside_it(figures: dict[str, Any], tmp_path: Path) -> None:
    write_page(figures, tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert {p.name for p in tmp_path.iterdir()} == {"results.md", "results-layers.png", "results-methods.png"}
    for picture in ("results-layers.png", "results-methods.png"):
        assert f"({picture})" in page
    assert "| negation | `encoder.0.ffn[3]` | 0.950 | 1.0 |" in page
    assert_tables(page)


def assert_tables(page: str) -> None:
    """Every row of a table has as many cells."""
    tables = [[line.count("|") for line in part.splitlines() if line.startswith("|")] for part in page.split("\n\n")]
    assert all(len(set(widths)) <= 1 for widths in tables)


def test_the_page_of_contrasts(tmp_path: Path) -> None:
    scores = {"switched": 0.9, "switched_95": [0.8, 1.0], "switched_of_able": None, "as_direct": 0.5, "n": 10}
    part = {"number set": dict.fromkeys(("to_singular", "to_plural"), scores | {"chrf_direct": 70.25})}
    contrast_page.write_page({"number": {"seen words": part, "unseen words": part}}, tmp_path / "contrasts.md")
    page = (tmp_path / "contrasts.md").read_text(encoding="utf-8")
    assert "| unseen words | **number set** | 90.0 [80–100] | – | 50.0 | 70.2 |" in page
    assert "**Pairs**: 10 of each part" in page
    assert '{"set": "number", "to": "plural"}' in page
    assert_tables(page)


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
