import gzip
from pathlib import Path

import pytest

from neurodial.control.errors import CorpusError
from neurodial.interpret.corpora.corpus import SPLITS, Corpus, Example, Sentence, split_of
from neurodial.interpret.corpora.readers import open_corpus

CONLLU = """\
# sent_id = 1
# text = She doesn't see del mar.
1\tShe\tshe\tPRON\tPRP\t_\t3\tnsubj\t_\t_
2-3\tdoesn't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdoes\tdo\tAUX\tVBZ\tTense=Pres|VerbForm=Fin\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
4\tsee\tsee\tVERB\tVB\tVerbForm=Inf\t0\troot\t_\t_
4.1\tghost\tghost\tVERB\tVB\tTense=Past\t_\t_\t_\t_
5-6\tdel\t_\t_\t_\t_\t_\t_\t_\t_
5\tde\tde\tADP\tIN\t_\t7\tcase\t_\t_
6\tel\tel\tDET\tDT\t_\t7\tdet\t_\t_
7\tmar\tmar\tNOUN\tNN\tNumber=Sing\t4\tobj\t_\t_
8\t.\t.\tPUNCT\t.\t_\t4\tpunct\t_\t_

# sent_id = 2
1\tseen\tsee\tVERB\tVBN\tTense=Past|VerbForm=Part\t0\troot\t_\t_
2\twent\tgo\tVERB\tVBD\tTense=Past|VerbForm=Fin\t0\troot\t_\t_
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def words(sentence: Sentence) -> list[tuple[str, str | None]]:
    return [(sentence.word(i), label) for i, label in enumerate(sentence.labels)]


def test_grammar_corpus_is_paired_and_labelled() -> None:
    corpus = open_corpus("grammar:tense?count=50&seed=3")
    first, second = list(corpus)[:2]
    assert (len(corpus), corpus.labels, corpus.paired) == (100, ("present", "past"), True)
    assert corpus.counts["present"] == corpus.counts["past"] >= 50
    assert (first.label, second.label, first.pair, second.pair) == ("present", "past", 0, 0)
    assert {label for _, label in words(first.source)} == {"present", "none"}
    assert corpus.digest == open_corpus("grammar:tense?count=50&seed=3").digest
    assert corpus.digest != open_corpus("grammar:tense?count=50&seed=4").digest


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.tsv.gz"])
def test_pairs_with_targets_and_a_condition(tmp_path: Path, name: str) -> None:
    rows = "split\tnow\tthen\tes_now\tes_then\n"
    rows += "train\tI'm ill.\tI was ill.\tEstoy malo.\tEstaba malo.\n"
    rows += "test\tShe goes.\tShe went.\tVa.\tFue.\n"
    path = write(tmp_path, name, rows)
    options = "present=now&past=then&present.target=es_now&past.target=es_then&where=split:train"
    present, past = open_corpus(f"pairs:{path}?{options}")
    assert words(present.source) == [("I", "none"), ("'m", "present"), ("ill", "none"), (".", "none")]
    assert words(past.source) == [("I", "none"), ("was", "past"), ("ill", "none"), (".", "none")]
    assert past.target is not None
    assert words(past.target) == [("Estaba", "past"), ("malo", "none"), (".", "none")]


def test_conllu_multiword_tokens_and_empty_nodes(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conllu", CONLLU)
    one, two = open_corpus(f"{path}?label=feats.Tense&where=VerbForm:Fin&labels=Pres:present,Past:past")
    assert words(one.source) == [
        ("She", "none"), ("does", "present"), ("n't", "none"), ("see", "none"), ("del", "none"), ("mar", "none"),
        (".", "none"),
    ]  # fmt: skip
    assert words(two.source) == [("seen", "none"), ("went", "past")]
    assert two.source.text == "seen went"


def test_conllu_annotations_and_heads(tmp_path: Path) -> None:
    sentence = next(iter(open_corpus(f"conllu:{write(tmp_path, 'a.conllu', CONLLU)}"))).source
    assert len(sentence.annotations) == len(sentence.words) == 7
    assert [a.head for a in sentence.annotations] == [2, 3, 3, -1, 5, 3, 3]  # `del` hangs on `mar`, `mar` on `see`
    does = sentence.annotations[1]
    assert (does.lemma, does.upos, does.xpos, does.deprel) == ("do", "AUX", "VBZ", "aux")
    assert does.feats == ("Tense=Pres", "VerbForm=Fin")


def test_conllu_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conllu.gz", CONLLU)
    by_upos = open_corpus(f"conllu:{path}?label=upos")
    assert "VERB" in by_upos.labels
    assert dict(words(next(iter(by_upos)).source))["del"] is None  # its parts disagree: ADP and DET
    assert open_corpus(f"conllu:{path}?label=deprel").counts["root"] == 3


def test_sentences_keep_the_order_of_their_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "s.tsv", "text\tlabel\nIt rains.\tpres\nIt rained.\tpast\nRain!\tother\n")
    corpus = open_corpus(f"sentences:{path}?labels=pres:present,past")
    assert corpus.labels == ("present", "past")
    assert [e.label for e in corpus] == ["present", "past"]
    assert not corpus.word_labels


def test_unlabelled_text(tmp_path: Path) -> None:
    assert len(open_corpus(str(write(tmp_path, "a.txt", "One.\nTwo.\n")))) == 2
    table = write(tmp_path, "b.tsv", "en\tes\na\tb\n")
    parallel = open_corpus(f"parallel:{table}?source=en&target=es")
    assert parallel.parallel
    assert parallel.labels == ()


@pytest.mark.parametrize(
    ("name", "text", "spec", "message"),
    [
        (
            "a.tsv",
            "text\tlabel\nOne\ta\nTwo\nThree\t\n",
            "sentences:{}",
            r"a\.tsv:3: 1 columns instead of 2 \(and 1 more",
        ),
        ("a.tsv", "text\tlabel\nOne\t \n", "sentences:{}", r"a\.tsv:2: the column 'label' is empty"),
        ("a.tsv", "text\tlabel\n", "sentences:{}", "nothing to read"),
        ("a.tsv", "", "sentences:{}", "no header"),
        ("a.tsv", "text\tkind\nA\tb\n", "sentences:{}", "no column 'label'"),
        ("a.tsv", "x\ty\nSame.\tSame.\n", "pairs:{}?a=x&b=y", r"a\.tsv:2: both sentences"),
        ("a.tsv", "x\ty\nA\tB\n", "pairs:{}?a=x", "two labels, 1 are given"),
        ("a.tsv", "text\tlabel\nOne\ta\n", "sentences:{}?labels=b", "nothing to read"),
        ("a.tsv", "text\tlabel\nOne\ta\n", "sentences:{}?labels=a,b", "no example has the label 'b'"),
        ("a.tsv", "text\tlabel\nOne\ta\n", "{}", "does not say what kind"),
        ("a.tsv", "text\tlabel\nOne\ta\n", "sentences:{}?colour=red", "'colour' is not an option"),
        ("a.conllu", "1\tword\n", "{}", r"a\.conllu:1: 2 columns instead of 10"),
        ("a.conllu", "# text = x\n", "{}", "without words"),
        ("a.conllu", "3-\tdon't" + "\t_" * 8 + "\n", "{}", "'3-' is not a word number"),
        ("a.conllu", CONLLU, "{}?label=tense", "label='tense' is not known"),
        ("a.txt", "One.\n\n", "{}", r"a\.txt:2: an empty line"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, name: str, text: str, spec: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        open_corpus(spec.format(write(tmp_path, name, text)))


def test_bad_rows_can_be_skipped_and_are_reported(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "text\tlabel\nOne\ta\nTwo\nThree\tb\n")
    corpus = open_corpus(f"sentences:{path}", skip_bad=True)
    assert (len(corpus), corpus.num_problems) == (2, 1)
    assert str(corpus.problems[0]).endswith("a.tsv:3: 1 columns instead of 2")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        open_corpus(f"text:{tmp_path / 'missing.txt'}")
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(CorpusError, match=r"bad\.txt:2: not UTF-8"):
        open_corpus(str(tmp_path / "bad.txt"))
    whole = write(tmp_path, "cut.txt.gz", "line\n" * 5000).read_bytes()
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match="cannot read on"):
        open_corpus(str(tmp_path / "cut.txt.gz"))


def test_splits_follow_the_pair_and_have_their_shares() -> None:
    corpus = open_corpus("grammar:tense?count=1000")
    by_pair: dict[int | None, set[str]] = {}
    for example in corpus:
        by_pair.setdefault(example.pair, set()).add(example.split)
    assert all(len(splits) == 1 for splits in by_pair.values())
    shares = [sum(split in splits for splits in by_pair.values()) / len(by_pair) for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.04)
    assert split_of("Some  text.") == split_of("some text.")


def test_a_corpus_from_memory() -> None:
    corpus = Corpus.of("memory", [Example(0, Sentence.of("Go home.", {0: "verb"}, other="none"))])
    assert corpus.labels == ("verb",)
    assert len(list(corpus)) == len(list(corpus)) == 1
