"""The scorer of number and negation, on a lexicon of a few forms."""

import gzip
from pathlib import Path

import pytest

from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.grammars.contrasts import generate_contrasts
from tests.experiments.demo_en_es import contrast_sets
from tests.experiments.demo_en_es.contrast_scores import ContrastScorer, said
from tests.experiments.demo_en_es.contrast_sets import contrast_corpus, unseen_word

FORMS = """form	lemma	mood	tense	person	number	corpus_count
abre	abrir	Ind	Pres	3	Sing	6
abren	abrir	Ind	Pres	3	Plur	6
abrió	abrir	Ind	Past	3	Sing	6
come	comer	Ind	Pres	3	Sing	6
cerca	cercar	Ind	Pres	3	Sing	6
puerta	portar	Ind	Pres	3	Sing	1
abra	abrir	Sub	Pres	3	Sing	1
"""


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> ContrastScorer:
    folder: Path = tmp_path_factory.mktemp("data")
    with gzip.open(folder / "es_verb_lexicon.tsv.gz", "wt", encoding="utf-8") as file:
        file.write(FORMS)
    (folder / "es_verb_homographs.txt").write_text("cerca\n", encoding="utf-8")
    return ContrastScorer(folder)


@pytest.mark.parametrize(
    ("output", "to", "switched"),
    [
        ("Los pilotos abren la puerta.", "plural", True),
        ("Los pilotos abren la puerta.", "singular", False),
        ("Los pilotos cerca de la puerta abre.", "plural", False),  # the verb has not followed
        ("El piloto abren.", "plural", False),
        ("Su piloto cerca de los barcos abre.", "singular", True),
        ("Los pilotos cansados.", "plural", False),  # no verb at all
    ],
)
def test_number_needs_subject_and_verb(scorer: ContrastScorer, output: str, to: str, switched: bool) -> None:
    assert scorer.switched("number", output, "El piloto abre.", to) is switched


@pytest.mark.parametrize(
    ("output", "to", "switched"),
    [
        ("Ella no abre la puerta.", "negative", True),
        ("Ella no abrió la puerta.", "negative", True),  # another tense, the same verb
        ("Ella no come.", "negative", False),  # another verb
        ("Ella abre la puerta.", "negative", False),
        ("Ella abre la puerta.", "affirmative", True),
    ],
)
def test_negation_keeps_the_verb(scorer: ContrastScorer, output: str, to: str, switched: bool) -> None:
    assert scorer.switched("negation", output, "Ella abre la puerta.", to) is switched


def test_a_report_counts_what_switched(scorer: ContrastScorer) -> None:
    outputs, base = ["Los pilotos abren.", "El piloto abre."], ["El piloto abre.", "El piloto abre."]
    report = scorer.report("number", outputs, base, ["Los pilotos abren."] * 2, "plural")
    assert (report["n"], report["switched"], report["as_direct"]) == (2, 0.5, 0.5)


def test_sets_are_made_of_other_words_and_of_pairs_that_the_model_tells_apart(
    tiny_marian: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = generate_contrasts("number", 200)
    kept_out = {pair.word for pair in pairs if unseen_word(pair)}
    assert 2 <= len(kept_out) <= 20
    plural = {pair.texts[1] for pair in pairs}

    def translate(_: LoadedModel, texts: list[str]) -> list[str]:
        return ["Los niños." if text in plural and "near" not in text else "El niño." for text in texts]

    monkeypatch.setattr(contrast_sets, "generate_texts", translate)
    texts = [example.source.text for example in contrast_corpus(tiny_marian, "number", 200)]
    assert texts
    assert not {text.lower().split()[1] for text in texts} & kept_out
    assert not any(" near " in text for text in texts)


def test_what_an_output_shows() -> None:
    assert said("number", "¿Las niñas comen?") == "plural"
    assert said("number", "Comen.") is None
    assert (said("negation", "No come."), said("negation", "Come nada.")) == ("negative", "affirmative")
