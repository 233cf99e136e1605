"""Readers of corpora, chosen by a spec such as `pairs:verbs.tsv?present=now&past=then`.

| Spec | What it reads |
|---|---|
| `grammar:tense?count=3000&seed=0` | the built-in grammar |
| `pairs:FILE?present=COLUMN&past=COLUMN` | minimal pairs; `present.target=COLUMN` for the other language |
| `sentences:FILE?text=COLUMN&label=COLUMN` | labelled sentences; `target=COLUMN` |
| `conllu:FILE?label=feats.Tense` | words; `label` is `upos`, `xpos`, `deprel`, `lemma` or `feats.NAME` |
| `parallel:FILE?source=COLUMN&target=COLUMN` | text in two languages, unlabelled |
| `text:FILE` | one sentence a line, unlabelled |

Tab-separated files have a header and no quoting; `.gz` is read as it is. `where=COLUMN:VALUE` keeps matching rows (or
words), `labels=A:x,B:y` names the labels in order and renames them, everything else is then `none` (words) or left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from neurodial.control.errors import CorpusError
from neurodial.interpret import conllu
from neurodial.interpret.corpus import BadRow, Corpus, Example, Rows, Sentence, pair_of_examples, path_name
from neurodial.interpret.grammar import generate_pairs
from neurodial.interpret.lines import numbered_lines

RESERVED = ("where", "labels", "text", "label", "source", "target", "count", "seed", "limit")
SPEC_HINT = "write KIND:FILE?OPTIONS, such as pairs:verbs.tsv?present=now&past=then or grammar:tense?count=3000"


@dataclass(frozen=True)
class Spec:
    """A corpus spec, taken apart."""

    kind: str
    place: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Reads `KIND:PLACE?KEY=VALUE&…`; the kind of `.conllu` and `.txt` files may be left out.

        Raises:
            CorpusError: if the kind is not known or an option is malformed.
        """
        head, _, query = text.partition("?")
        kind, colon, place = head.partition(":")
        if not colon or kind not in READERS:
            place = head
            name = head.removesuffix(".gz")
            kind = "conllu" if name.endswith(".conllu") else "text" if name.endswith(".txt") else ""
        if not kind or not place:
            raise CorpusError(f"{text!r} does not say what kind of corpus it is", hint=SPEC_HINT)
        try:
            options = dict(parse_qsl(query, strict_parsing=True, keep_blank_values=True)) if query else {}
        except ValueError as error:
            raise CorpusError(f"{text!r}: the options after '?' are not KEY=VALUE&…", hint=SPEC_HINT) from error
        return cls(kind, place, options)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.place).expanduser()

    @property
    def name(self) -> str:
        """For people and artifacts: without folders of this machine."""
        options = "&".join(f"{k}={v}" for k, v in self.options.items())
        place = self.place if self.kind == "grammar" else path_name(self.path)
        return f"{self.kind}:{place}" + (f"?{options}" if options else "")

    @property
    def renamed(self) -> dict[str, str]:
        """Label in the file → label of the concept, in order."""
        items = [item.partition(":") for item in self.options.get("labels", "").split(",") if item]
        return {old.strip(): (new or old).strip() for old, _, new in items}

    @property
    def where(self) -> tuple[str, str] | None:
        """The column and the value that rows must have."""
        if "where" not in self.options:
            return None
        column, separator, value = self.options["where"].partition(":")
        if not separator:
            raise CorpusError(f"where={column!r} is not COLUMN:VALUE", hint="write where=split:train")
        return column, value

    def whole(self, key: str, default: int) -> int:
        """An option that is a whole number."""
        value = self.options.get(key, str(default))
        if not value.isdecimal():
            raise CorpusError(f"{key}={value!r} is not a whole number", hint=SPEC_HINT)
        return int(value)


def open_corpus(spec: str, *, skip_bad: bool = False) -> Corpus:
    """Opens and checks a corpus.

    Args:
        spec: see the module's table.
        skip_bad: leave bad rows out and report them instead of refusing the corpus.

    Raises:
        CorpusError: naming file and line of the first bad row.
    """
    parsed = Spec.parse(spec)
    read, labels = READERS[parsed.kind](parsed)
    return Corpus.open(parsed.name, read, labels=labels, skip_bad=skip_bad)


Reader = Callable[[Spec], tuple[Callable[[], Rows], tuple[str, ...]]]


def _grammar(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    if spec.place != "tense":
        raise CorpusError(f"there is no grammar {spec.place!r}", hint="the built-in one is grammar:tense")
    _known(spec, "count", "seed")
    labels = ("present", "past")
    pairs = generate_pairs(spec.whole("count", 3000), spec.whole("seed", 0))

    def read() -> Rows:
        for number, pair in enumerate(pairs):
            yield from pair_of_examples(2 * number, number, labels, (pair.present, pair.past))

    return read, labels


def _pairs(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    columns = {key: value for key, value in spec.options.items() if key not in RESERVED}
    labels = tuple(key for key in columns if not key.endswith(".target"))
    if len(labels) != 2:
        raise CorpusError(
            f"{spec.name}: a minimal pair has two labels, {len(labels)} are given",
            hint="name the column of each label: pairs:FILE?present=COLUMN&past=COLUMN",
        )
    sides = (labels[0], labels[1])
    targets = [columns[f"{label}.target"] for label in labels if f"{label}.target" in columns]
    if len(targets) == 1 or set(columns) - set(labels) - {f"{label}.target" for label in labels}:
        raise CorpusError(f"{spec.name}: give LABEL.target for both labels or for none")

    def read() -> Rows:
        pair = 0
        for where, row in _table(spec, [columns[label] for label in sides] + targets):
            if isinstance(row, str):
                yield BadRow(where, row)
                continue
            texts = [row[columns[label]] for label in sides]
            others = (row[targets[0]], row[targets[1]]) if targets else None
            made = pair_of_examples(2 * pair, pair, sides, (texts[0], texts[1]), others)
            if not any(label in sides for label in made[0].source.labels):
                yield BadRow(where, "both sentences of the pair have the same words")
                continue
            yield from made
            pair += 1

    return read, labels


def _sentences(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    _known(spec, "text", "label", "target", "where", "labels")
    text, label = spec.options.get("text", "text"), spec.options.get("label", "label")
    renamed, target = spec.renamed, spec.options.get("target")

    def read() -> Rows:
        number = 0
        for where, row in _table(spec, [text, label, *([target] if target else [])]):
            if isinstance(row, str):
                yield BadRow(where, row)
            elif not renamed or row[label] in renamed:
                other = Sentence.of(row[target]) if target else None
                yield Example(number, Sentence.of(row[text]), renamed.get(row[label], row[label]), None, other)
                number += 1

    return read, tuple(renamed.values())


def _parallel(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    _known(spec, "source", "target", "where")
    source, target = spec.options.get("source", "source"), spec.options.get("target", "target")

    def read() -> Rows:
        number = 0
        for where, row in _table(spec, [source, target]):
            if isinstance(row, str):
                yield BadRow(where, row)
            else:
                yield Example(number, Sentence.of(row[source]), target=Sentence.of(row[target]))
                number += 1

    return read, ()


def _text(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    _known(spec)

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
    _known(spec, "label", "where", "labels")
    rule = conllu.WordLabel.parse(spec.options.get("label", "upos"), spec.renamed, spec.where)
    return lambda: conllu.read(spec.path, rule), tuple(dict.fromkeys(spec.renamed.values()))


def _known(spec: Spec, *names: str) -> None:
    if unknown := set(spec.options) - set(names):
        raise CorpusError(
            f"{spec.name}: {min(unknown)!r} is not an option of {spec.kind}",
            hint=f"options: {', '.join(names) or 'none'}",
        )


def _table(spec: Spec, needed: list[str]) -> Iterator[tuple[str, dict[str, str] | str]]:
    """Rows of a tab-separated file as dictionaries, or what is wrong with them."""
    lines = numbered_lines(spec.path)
    where, header = next(lines, (str(spec.path), BadRow(str(spec.path), "")))
    if isinstance(header, BadRow):
        raise CorpusError(f"{where}: there is no header line")
    names = header.split("\t")
    condition = spec.where
    for name in [*needed, *([condition[0]] if condition else [])]:
        if name not in names:
            raise CorpusError(f"{where}: there is no column {name!r}", hint=f"columns: {', '.join(names)}")
    for where, line in lines:
        if isinstance(line, BadRow):
            yield where, line.message
            continue
        values = line.split("\t")
        row = dict(zip(names, values, strict=False))
        if len(values) != len(names):
            yield where, f"{len(values)} columns instead of {len(names)}"
        elif condition and row[condition[0]] != condition[1]:
            continue
        elif empty := [name for name in needed if not row[name].strip()]:
            yield where, f"the column {empty[0]!r} is empty"
        else:
            yield where, row


READERS: dict[str, Reader] = {
    "grammar": _grammar,
    "pairs": _pairs,
    "sentences": _sentences,
    "conllu": _conllu,
    "parallel": _parallel,
    "text": _text,
}
