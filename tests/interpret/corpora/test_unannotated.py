"""Concepts without annotation, facts, and the agreement grammar as a corpus."""

from pathlib import Path

import numpy as np
import pytest

from neurodial.control.errors import CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Corpus, Sentence
from neurodial.interpret.corpora.grammars.agreement import agreement_pairs
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover

TEXT = "The deep blue sea.\nTwo red cats and 3 dogs.\nDEEP water isn't blue.\n"


def found(corpus: Corpus) -> list[tuple[str, str]]:
    sentences: list[Sentence] = [example.source for example in corpus]
    return [(s.word(n), label) for s in sentences for n, label in enumerate(s.labels) if label not in ("none", None)]


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_words_that_a_regular_expression_touches(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", TEXT)
    assert found(open_corpus(f"regex:{path}?pattern=(?i)deep")) == [("deep", "match"), ("DEEP", "match")]
    corpus = open_corpus(f"regex:{path}?pattern=\\d+|\\bs.a\\b&label=odd")
    assert found(corpus) == [("sea", "odd"), ("3", "odd")]
    assert {label for example in corpus for label in example.source.labels} == {"odd", "none"}
    assert corpus.digest != open_corpus(f"regex:{path}?pattern=\\d+&label=odd").digest
    plus = open_corpus(f"regex:{write(tmp_path, 'b.txt', 'a %26 C++ b')}?pattern=C\\+\\+|%2526")
    assert "+" in dict(found(plus))


def test_words_of_a_list(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", TEXT)
    inline = open_corpus(f"words:{path}?words=blue,deep blue,red&label=colour")
    assert found(inline) == [("deep", "colour"), ("blue", "colour"), ("red", "colour"), ("blue", "colour")]
    names = write(tmp_path, "list.tsv", "Deep Blue\tcolour\n\nred\tcolour\ncats\tanimal\ndogs\tanimal\n")
    listed = open_corpus(f"words:{path}?list={names}")
    assert listed.labels == ("colour", "animal")
    assert listed.counts == {"colour": 3, "animal": 2}
    assert str(tmp_path) not in listed.name


def test_text_in_a_column_and_its_other_language(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "en\tes\tpart\nA red cat\tUn gato rojo\tx\nA dog\tUn perro\ty\n")
    corpus = open_corpus(f"words:{path}?words=red,dog&text=en&target=es&where=part:y")
    assert corpus.parallel and found(corpus) == [("dog", "listed")]


def test_contrasting_prompts_are_pairs_of_whole_sentences(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "kind\trude\nWould you sit down, please?\tSit!\nThank you.\tGo away now.\n")
    corpus = open_corpus(f"contrast:{path}?polite=kind&rude=rude")
    assert corpus.labels == ("polite", "rude") and corpus.paired and not corpus.word_labels
    first, second = list(corpus)[:2]
    assert (first.label, second.label, first.pair, first.split) == ("polite", "rude", second.pair, second.split)


def test_contrasting_prompts_find_neurons(loaded: LoadedModel, tmp_path: Path) -> None:
    rows = [f"She {verb}s the {thing}.\tHe {verb}ed the tall {thing}!" for verb in ("open", "walk", "cook", "lik")
            for thing in ("door", "book", "house", "boy", "cook", "doors", "books", "houses", "boys")]  # fmt: skip
    path = write(tmp_path, "a.tsv", "\n".join(["a\tb", *rows]) + "\n")
    for method in ("mean-difference", "probeless"):
        made = discover(
            loaded,
            open_corpus(f"contrast:{path}?a=a&b=b"),
            Discovery("x", method, top=5, sentences="last", evidence="none"),
        )
        assert made.recommended.op == "shift" and made.recommended.where == "all"
    site = made.sites[0]
    assert site.delta["b"] == pytest.approx(site.mean["b"] - site.mean["a"], abs=1e-3)
    assert np.abs(site.delta["b"]).min() > 0


def test_facts_in_every_pattern_of_their_relation(tmp_path: Path) -> None:
    rows = ("relation\tsubject\tobject", "P36\tPeru\tLima", "P1\tRex\tdog", "P36\tNew York\tNew Albany")
    facts = write(tmp_path, "facts.tsv", "\n".join(rows))
    forms = ("P36\tThe capital of [X] is [Y] .", "P36\t[Y], capital of [X]", "P1\t[X] is a [Y].")
    patterns = write(tmp_path, "patterns.tsv", "\n".join(("relation\tpattern", *forms)))
    corpus = open_corpus(f"facts:{facts}?patterns={patterns}&relations=P36")
    assert corpus.name == "facts:facts.tsv?patterns=patterns.tsv&relations=P36"
    assert [(e.fact, e.source.text) for e in corpus] == [
        (0, "The capital of Peru is Lima."), (0, "Lima, capital of Peru."),
        (1, "The capital of New York is New Albany."), (1, "New Albany, capital of New York."),
    ]  # fmt: skip
    assert found(corpus)[2:4] == [("New", "object"), ("Albany", "object")]
    assert len({e.split for e in corpus if e.fact == 0}) == 1
    one = open_corpus(f"facts:{facts}?patterns={patterns}&count=1&seed=5")
    assert len({e.key for e in one}) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("regex:{}", "it has no pattern"),
        ("regex:{}?pattern=(", "not a regular expression"),
        ("regex:{}?pattern=zebra", "no example has the label 'match'"),
        ("regex:{}?pattern=a&where=x:y", "'where' needs a table"),
        ("regex:{}?pattern=a&size=3", "'size' is not an option of regex"),
        ("words:{}", "it has no words"),
        ("words:{}?words=,", "the list holds no words"),
        ("words:{}?list=nowhere.txt", "no such file"),
        ("contrast:{}?a=x", "a contrast has two labels, 1 are given"),
        ("facts:{}", "does not say how facts are put into words"),
        ("facts:{0}?patterns={0}", "no column 'relation'"),
        ("grammar:colour", "there is no grammar 'colour'"),
        ("pairs:{}?a", "not KEY=VALUE"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        open_corpus(spec.format(write(tmp_path, "a.txt", TEXT)))


def test_lists_and_patterns_that_contradict_themselves(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", TEXT)
    with pytest.raises(CorpusError, match="'red' has another label already"):
        open_corpus(f"words:{path}?list={write(tmp_path, 'l.tsv', 'red	a' + chr(10) + 'red	b')}")
    facts = write(tmp_path, "f.tsv", "relation\tsubject\tobject\nP36\tPeru\tLima\n")
    patterns = write(tmp_path, "p.tsv", "relation\tpattern\nP36\tThe capital is [Y].\n")
    with pytest.raises(CorpusError, match=r"p\.tsv:2: the pattern .* does not have \[X\] and \[Y\] once each"):
        open_corpus(f"facts:{facts}?patterns={patterns}")
    with pytest.raises(CorpusError, match="no pattern of the relation 'P9'"):
        open_corpus(f"facts:{facts}?patterns={write(tmp_path, 'q.tsv', 'relation	pattern' + chr(10))}&relations=P9")
    same = write(tmp_path, "s.tsv", "x\ty\nOne.\tOne.\n")
    with pytest.raises(CorpusError, match=r"s\.tsv:2: both prompts are the same"):
        open_corpus(f"contrast:{same}?a=x&b=y")


def test_agreement_pairs_differ_in_number_alone() -> None:
    pairs = agreement_pairs(150, 2)
    assert pairs == agreement_pairs(150, 2) != agreement_pairs(150, 3)
    for one, many in pairs:
        assert (one.number, many.number, one.kind, one.others, one.after) == (0, 1, many.kind, many.others, many.after)
        assert one.forms == many.forms and one.before != many.before
        assert len(one.before.split()) == len(many.before.split())
    corpus = open_corpus("grammar:agreement?count=40")
    assert (corpus.labels, len(corpus), corpus.paired) == (("singular", "plural"), 80, True)
    assert corpus.counts["singular"] == corpus.counts["plural"] >= 80


def test_composed_and_decomposed_text_are_the_same(tmp_path: Path) -> None:
    """On both sides: in the list or pattern, and in the text, whose own offsets stay."""
    (tmp_path / "text.txt").write_text("Un cafe\u0301 bueno.\nUn café bueno.\n", encoding="utf-8")
    for word in ("café", "cafe\u0301", "CAFÉ"):
        corpus = open_corpus(f"words:{tmp_path / 'text.txt'}?words={word}")
        assert [e.source.labels[1] for e in corpus] == ["listed", "listed"]
    for pattern in ("caf.\\b", "cafe\u0301", "café"):
        corpus = open_corpus(f"regex:{tmp_path / 'text.txt'}?pattern={pattern}")
        assert [e.source.labels for e in corpus] == [("none", "match", "none", "none")] * 2
        assert [e.source.word(1) for e in corpus] == ["cafe\u0301", "café"]
