r"""Concepts without annotation: a regular expression, a word list, or pairs of contrasting prompts over plain text.

| Spec | Labels |
|---|---|
| `regex:FILE?pattern=\d+&label=number` | words that a match touches are `number` (by default `match`) |
| `words:FILE?list=COLOURS` | words of the list are `listed`, or `label=NAME`, or what its second column says |
| `words:FILE?words=red,deep blue` | the same with the words in the spec |
| `contrast:FILE?polite=COLUMN&rude=COLUMN` | the prompts of one row, as whole sentences, with their column's label |

`FILE` has one sentence a line; with `text=COLUMN` it is a table, `target=COLUMN` being its other language. All other
words are `none`. Words are compared without regard to case and to how
accents are composed, and an entry of several words must be found whole. In a
pattern `&`, `%` and `#` are written `%26`, `%25` and `%23`; it is case-sensitive unless it begins with `(?i)`.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import regex

from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import CorpusError
from neurodial.control.text.words import comparable, split_words
from neurodial.interpret.corpora.corpus import BadRow, Example, Rows, Sentence
from neurodial.interpret.corpora.lines import numbered_lines
from neurodial.interpret.corpora.specs import Spec, label_columns, table_rows

Labels = dict[int, str]  # number of a word → its label
Read = tuple[Callable[[], Rows], tuple[str, ...]]


def by_regex(spec: Spec) -> Read:
    """Text whose words are labelled by a regular expression."""
    spec.check_options("pattern", "label", "text", "target", "where")
    label, text = spec.options.get("label", "match"), spec.options.get("pattern", "")
    if not text:
        raise CorpusError(f"{spec.name}: it has no pattern", hint="write regex:FILE?pattern=EXPRESSION")
    try:
        pattern = re.compile(unicodedata.normalize("NFC", text))
    except re.error as error:
        raise CorpusError(f"{spec.name}: the pattern is not a regular expression ({error})") from error

    def matched(sentence: Sentence) -> Labels:
        composed, origin = _composed(sentence.text)
        spans = [(origin[m.start()], origin[m.end()]) for m in pattern.finditer(composed) if m.group()]
        return {
            number: label
            for number, (start, end) in enumerate(sentence.words)
            if any(a < end and start < b for a, b in spans)
        }

    return _labelled(spec, matched), (label,)


def _composed(text: str) -> tuple[str, Sequence[int]]:
    """A text with composed letters (NFC), and where each of its characters, and its end, were before."""
    if unicodedata.is_normalized("NFC", text):
        return text, range(len(text) + 1)
    composed, origin = "", list[int]()
    for letter in regex.finditer(r"\X", text):
        made = unicodedata.normalize("NFC", letter.group())
        composed += made
        origin += [letter.start()] * len(made)
    return composed, [*origin, len(text)]


def by_words(spec: Spec) -> Read:
    """Text whose words are labelled by a list."""
    spec.check_options("list", "words", "label", "text", "target", "where")
    if ("list" in spec.options) == ("words" in spec.options):
        raise CorpusError(f"{spec.name}: it has no words", hint="write words:FILE?list=FILE or words:FILE?words=A,B")
    entries = _entries(spec)
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for entry in sorted(entries, key=len, reverse=True):  # of two that begin alike, the longer one
        by_first.setdefault(entry[0], []).append(entry)

    def listed(sentence: Sentence) -> Labels:
        words = [comparable(sentence.word(number)) for number in range(len(sentence.words))]
        found: Labels = {}
        at = 0
        while at < len(words):
            entry = next((e for e in by_first.get(words[at], ()) if tuple(words[at : at + len(e)]) == e), None)
            found |= dict.fromkeys(range(at, at + len(entry)), entries[entry]) if entry else {}
            at += len(entry) if entry else 1
        return found

    return _labelled(spec, listed), tuple(dict.fromkeys(entries.values()))


def _entries(spec: Spec) -> dict[tuple[str, ...], str]:
    """Words of an entry, as they are compared → its label."""
    usual = spec.options.get("label", "listed")
    rows = _list_file(Path(spec.options["list"]).expanduser()) if "list" in spec.options else None
    entries: dict[tuple[str, ...], str] = {}
    for where, line in rows or ((spec.name, word) for word in spec.options["words"].split(",")):
        text, _, label = line.partition("\t")
        words = tuple(map(comparable, split_words(text)))
        if words and entries.setdefault(words, label.strip() or usual) != (label.strip() or usual):
            raise CorpusError(f"{where}: {text!r} has another label already")
    if not entries:
        raise CorpusError(f"{spec.name}: the list holds no words")
    return entries


def _list_file(path: Path) -> Iterator[tuple[str, str]]:
    for where, line in numbered_lines(path):
        if isinstance(line, BadRow):
            raise CorpusError(str(line))
        yield where, line


def _labelled(spec: Spec, label: Callable[[Sentence], Labels]) -> Callable[[], Rows]:
    """Reads the sentences and labels the words of each, on the source side."""

    def read() -> Rows:
        number = 0
        for where, texts in _texts(spec):
            if isinstance(texts, str):
                yield BadRow(where, texts)
                continue
            source = Sentence.of(texts[0])
            found = label(source)
            labels = tuple(found.get(word, NONE_CLASS) for word in range(len(source.words)))
            other = Sentence.of(texts[1]) if len(texts) > 1 else None
            yield Example(number, replace(source, labels=labels), target=other)
            number += 1

    return read


def _texts(spec: Spec) -> Iterator[tuple[str, list[str] | str]]:
    """The sentence of each row, and its other language where there is one; or what is wrong with the row."""
    if "text" in spec.options:
        columns = [spec.options[key] for key in ("text", "target") if key in spec.options]
        for where, row in table_rows(spec, columns):
            yield where, row if isinstance(row, str) else [row[column] for column in columns]
        return
    if misplaced := {"target", "where"} & set(spec.options):
        raise CorpusError(f"{spec.name}: {min(misplaced)!r} needs a table", hint="name its column of text: text=COLUMN")
    for where, line in numbered_lines(spec.path):
        if isinstance(line, BadRow):
            yield where, line.message
        else:
            yield where, [line] if line.strip() else "an empty line"


def contrast(spec: Spec) -> Read:
    """Pairs of contrasting prompts: two sentences of any length, each labelled as a whole."""
    columns = label_columns(spec)
    if dotted := [key for key in columns if key.endswith(".target")]:
        raise CorpusError(f"{spec.name}: {dotted[0]!r} is not an option of contrast")
    labels = tuple(columns)

    def read() -> Rows:
        pair = 0
        for where, row in table_rows(spec, list(columns.values())):
            if isinstance(row, str):
                yield BadRow(where, row)
                continue
            texts = [row[columns[label]] for label in labels]
            if texts[0] == texts[1]:
                yield BadRow(where, "both prompts are the same")
                continue
            for side, label in enumerate(labels):
                yield Example(2 * pair + side, Sentence.of(texts[side]), label, pair, key=texts[0])
            pair += 1

    return read, labels
