"""CoNLL-U: words with a label taken from a column or a feature.

A multi-word token (`don't` = `do` + `n't`) gives its words their own spans where their forms spell the token; where
they don't (`del` = `de` + `el`) the token is one word with the label of its only labelled part. Empty nodes (`8.1`)
are no words of the text and are left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import CorpusError, choices
from neurodial.interpret.corpora.corpus import Annotation, BadRow, Example, Rows, Sentence
from neurodial.interpret.corpora.lines import numbered_lines

NUMBER = re.compile(r"\d+(-\d+)?")
COLUMNS = {"form": 1, "lemma": 2, "upos": 3, "xpos": 4, "deprel": 7}


@dataclass(frozen=True)
class WordLabel:
    """Where the label of a word comes from.

    Attributes:
        column: number of the column, 5 for features.
        feature: name of the feature.
        renamed: value → label; values that are not among them are `none`. Empty: every value is a label.
        where: (column or feature, value) that a word must have, else it is `none`.
    """

    column: int
    feature: str | None
    renamed: dict[str, str]
    where: tuple[str, str] | None = None

    @classmethod
    def parse(cls, text: str, renamed: dict[str, str], where: tuple[str, str] | None) -> "WordLabel":
        """Reads `upos`, `deprel`, `feats.Tense`.

        Raises:
            CorpusError: for anything else.
        """
        column, _, feature = text.partition(".")
        if column == "feats" and feature:
            return cls(5, feature, renamed, where)
        if column in COLUMNS and not feature:
            return cls(COLUMNS[column], None, renamed, where)
        raise CorpusError(f"label={text!r} is not known", hint=choices(text, [*COLUMNS, "feats.NAME"]))

    def of(self, row: list[str]) -> str:
        """The label of a word."""
        if self.where and self._value(row, *_place(self.where[0])) != self.where[1]:
            return NONE_CLASS
        value = self._value(row, self.column, self.feature)
        if value is None:
            return NONE_CLASS
        return self.renamed.get(value, NONE_CLASS) if self.renamed else value

    @staticmethod
    def _value(row: list[str], column: int, feature: str | None) -> str | None:
        if feature is None:
            return None if row[column] == "_" else row[column]
        features = dict(item.partition("=")[::2] for item in row[5].split("|"))
        return features.get(feature)


def _place(name: str) -> tuple[int, str | None]:
    return (COLUMNS[name], None) if name in COLUMNS else (5, name)


def read(path: Path, rule: WordLabel) -> Rows:
    """Examples of a CoNLL-U file."""
    number = 0
    for where, lines in _blocks(path):
        made = _sentence(where, lines, rule)
        if isinstance(made, BadRow):
            yield made
        else:
            yield Example(number, made)
            number += 1


def _blocks(path: Path) -> Iterator[tuple[str, list[tuple[str, str | BadRow]]]]:
    """Sentences as lists of numbered lines."""
    block: list[tuple[str, str | BadRow]] = []
    for where, line in numbered_lines(path):
        if isinstance(line, str) and not line.strip():
            if block:
                yield block[0][0], block
            block = []
        else:
            block.append((where, line))
    if block:
        yield block[0][0], block


def _sentence(where: str, lines: list[tuple[str, str | BadRow]], rule: WordLabel) -> Sentence | BadRow:
    text, rows = "", []
    for where, line in lines:
        if isinstance(line, BadRow):
            return line
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            text = value.strip() if key.strip() == "text" else text
            continue
        row = line.split("\t")
        if len(row) != 10:
            return BadRow(where, f"{len(row)} columns instead of 10")
        if not row[1]:
            return BadRow(where, "a word without a form")
        if "." not in row[0]:
            if not NUMBER.fullmatch(row[0]):
                return BadRow(where, f"{row[0]!r} is not a word number")
            rows.append(row)
    units = _units(rows, rule)
    if not units:
        return BadRow(where, "a sentence without words")
    spaced = " ".join(unit.form for unit in units)
    return _placed(text, units) or _placed(spaced, units) or BadRow(where, "no text")


@dataclass(frozen=True)
class _Unit:
    """A word as it is written: the label, the ids that it covers, and the row that says what it is."""

    form: str
    label: str | None
    first: int
    last: int
    row: list[str]


def _units(rows: list[list[str]], rule: WordLabel) -> list[_Unit]:
    """The words as they are written."""
    units: list[_Unit] = []
    at = 0
    while at < len(rows):
        row = rows[at]
        first, dash, last = row[0].partition("-")
        at += 1
        if not dash:
            units.append(_Unit(row[1], rule.of(row), int(first), int(first), row))
            continue
        size = int(last) - int(first) + 1
        parts = rows[at : at + size]
        at += size
        if "".join(part[1] for part in parts) == row[1]:
            units += [_Unit(part[1], rule.of(part), int(part[0]), int(part[0]), part) for part in parts]
        else:
            labels = {label for part in parts if (label := rule.of(part)) != NONE_CLASS}
            joint = NONE_CLASS if not labels else labels.pop() if len(labels) == 1 else None
            outward = [part for part in parts if not _head(part) or not int(first) <= _head(part) <= int(last)]
            units.append(_Unit(row[1], joint, int(first), int(last), (outward or parts or [row])[0]))
    return units


def _head(row: list[str]) -> int:
    """Id of the head, 0 for the root and where there is none."""
    return int(row[6]) if row[6].isdecimal() else 0


def _annotations(units: list[_Unit]) -> tuple[Annotation, ...]:
    number = {i: place for place, unit in enumerate(units) for i in range(unit.first, unit.last + 1)}
    made = []
    for unit in units:
        lemma, upos, xpos, feats, deprel = ("" if unit.row[i] == "_" else unit.row[i] for i in (2, 3, 4, 5, 7))
        features = tuple(feats.split("|")) if feats else ()
        made.append(Annotation(lemma, upos, xpos, features, deprel, number.get(_head(unit.row), -1)))
    return tuple(made)


def _placed(text: str, units: list[_Unit]) -> Sentence | None:
    """The sentence with each word found in its text, or None if one is not there."""
    spans, cursor = [], 0
    for unit in units:
        start = text.find(unit.form, cursor)
        if start < 0 or text[cursor:start].strip():
            return None
        cursor = start + len(unit.form)
        spans.append((start, cursor))
    return Sentence(text, tuple(spans), tuple(unit.label for unit in units), _annotations(units)) if text else None
