"""Readers of corpora, chosen by a spec such as `pairs:verbs.tsv?present=now&past=then`.

| Spec | What it reads |
|---|---|
| `grammar:tense?count=3000&seed=0` | a built-in grammar's pairs; also `agreement`, `number`, `negation` |
| `pairs:FILE?present=COLUMN&past=COLUMN` | minimal pairs; `present.target=COLUMN` for the other language |
| `sentences:FILE?text=COLUMN&label=COLUMN` | labelled sentences; `target=COLUMN` |
| `conllu:FILE?label=feats.Tense` | words; `label` is `upos`, `xpos`, `deprel`, `lemma` or `feats.NAME` |
| `parallel:FILE?source=COLUMN&target=COLUMN` | text in two languages, unlabelled |
| `text:FILE` | one sentence a line, unlabelled |
| `regex:FILE?pattern=…` | text; words that a regular expression matches (`interpret.corpora.formats.unannotated`) |
| `words:FILE?list=FILE` | text; words of a list |
| `contrast:FILE?polite=COLUMN&rude=COLUMN` | pairs of contrasting prompts, of any words |
| `facts:FILE?patterns=FILE` | facts in several paraphrases (`interpret.corpora.formats.facts`) |

Tab-separated files have a header and no quoting; `.gz` is read as it is. `where=COLUMN:VALUE` keeps matching rows (or
words), `labels=A:x,B:y` names the labels in order and renames them, everything else is then `none` (words) or left out.
"""

from collections.abc import Callable

from neurodial.control.errors import CorpusError, choices
from neurodial.interpret.corpora.corpus import BadRow, Corpus, Example, Rows, Sentence, pair_of_examples
from neurodial.interpret.corpora.formats import conllu, facts, unannotated
from neurodial.interpret.corpora.grammars.agreement import NUMBERS, agreement_pairs
from neurodial.interpret.corpora.grammars.contrasts import LABELS as CONTRASTS
from neurodial.interpret.corpora.grammars.contrasts import Contrast, generate_contrasts
from neurodial.interpret.corpora.grammars.tense import generate_pairs
from neurodial.interpret.corpora.lines import numbered_lines
from neurodial.interpret.corpora.specs import Spec, label_columns, table_rows


def open_corpus(spec: str, *, skip_bad: bool = False) -> Corpus:
    """Opens and checks a corpus.

    Args:
        spec: see the module's table.
        skip_bad: leave bad rows out and report them instead of refusing the corpus.

    Raises:
        CorpusError: naming file and line of the first bad row.
    """
    parsed = Spec.parse(spec, READERS)
    read, labels = READERS[parsed.kind](parsed)
    return Corpus.open(parsed.name, read, labels=labels, skip_bad=skip_bad)


Reader = Callable[[Spec], tuple[Callable[[], Rows], tuple[str, ...]]]


def _grammar(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    spec.check_options("count", "seed")
    count, seed = spec.whole("count", 3000), spec.whole("seed", 0)
    texts: list[tuple[str, str]]
    if spec.place in CONTRASTS:
        return _contrasts(spec.place, generate_contrasts(spec.place, count, seed))
    if spec.place == "tense":
        labels, texts = ("present", "past"), [(p.present, p.past) for p in generate_pairs(count, seed)]
    elif spec.place == "agreement":
        labels, texts = NUMBERS, [(one.text, many.text) for one, many in agreement_pairs(count, seed)]
    else:
        known = ("tense", "agreement", *CONTRASTS)
        raise CorpusError(f"there is no grammar {spec.place!r}", hint=choices(spec.place, known))

    def read() -> Rows:
        for number, pair in enumerate(texts):
            yield from pair_of_examples(2 * number, number, labels, pair)

    return read, labels


def _contrasts(concept: str, pairs: list[Contrast]) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    def read() -> Rows:
        for number, pair in enumerate(pairs):
            yield from pair.examples(number, CONTRASTS[concept])

    return read, CONTRASTS[concept]


def _pairs(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    columns = label_columns(spec)
    sides = [key for key in columns if not key.endswith(".target")]
    targets = [columns[f"{label}.target"] for label in sides if f"{label}.target" in columns]
    if len(targets) == 1 or set(columns) - set(sides) - {f"{label}.target" for label in sides}:
        raise CorpusError(f"{spec.name}: give LABEL.target for both labels or for none")
    labels = (sides[0], sides[1])

    def read() -> Rows:
        pair = 0
        for where, row in table_rows(spec, [columns[label] for label in sides] + targets):
            if isinstance(row, str):
                yield BadRow(where, row)
                continue
            texts = [row[columns[label]] for label in sides]
            others = (row[targets[0]], row[targets[1]]) if targets else None
            made = pair_of_examples(2 * pair, pair, labels, (texts[0], texts[1]), others)
            if not any(label in sides for label in made[0].source.labels):
                yield BadRow(where, "both sentences of the pair have the same words")
                continue
            yield from made
            pair += 1

    return read, labels


def _sentences(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    spec.check_options("text", "label", "target", "where", "labels")
    text, label = spec.options.get("text", "text"), spec.options.get("label", "label")
    renamed, target = spec.renamed, spec.options.get("target")

    def read() -> Rows:
        number = 0
        for where, row in table_rows(spec, [text, label, *([target] if target else [])]):
            if isinstance(row, str):
                yield BadRow(where, row)
            elif not renamed or row[label] in renamed:
                other = Sentence.of(row[target]) if target else None
                yield Example(number, Sentence.of(row[text]), renamed.get(row[label], row[label]), None, other)
                number += 1

    return read, tuple(renamed.values())


def _parallel(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    spec.check_options("source", "target", "where")
    source, target = spec.options.get("source", "source"), spec.options.get("target", "target")

    def read() -> Rows:
        number = 0
        for where, row in table_rows(spec, [source, target]):
            if isinstance(row, str):
                yield BadRow(where, row)
            else:
                yield Example(number, Sentence.of(row[source]), target=Sentence.of(row[target]))
                number += 1

    return read, ()


def _text(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    spec.check_options()

    def read() -> Rows:
        number = 0
        for where, line in numbered_lines(spec.path):
            if isinstance(line, BadRow):
                yield line
            elif not line.strip():
                yield BadRow(where, "an empty line")
            else:
                yield Example(number, Sentence.of(line))
                number += 1

    return read, ()


def _conllu(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    spec.check_options("label", "where", "labels")
    rule = conllu.WordLabel.parse(spec.options.get("label", "upos"), spec.renamed, spec.where)
    return lambda: conllu.read(spec.path, rule), tuple(dict.fromkeys(spec.renamed.values()))


READERS: dict[str, Reader] = {
    "grammar": _grammar,
    "pairs": _pairs,
    "sentences": _sentences,
    "conllu": _conllu,
    "parallel": _parallel,
    "text": _text,
    "regex": unannotated.by_regex,
    "words": unannotated.by_words,
    "contrast": unannotated.contrast,
    "facts": facts.read,
}
