"""Facts in several paraphrases, as ParaRel writes them (Elazar et al. 2021): `facts:FILE?patterns=FILE`.

The facts are a table with the columns `relation`, `subject` and `object`, the patterns one with `relation` and
`pattern`, in which `[X]` is the place of the subject and `[Y]` that of the object. Every fact is stated in every
pattern of its relation; the words of its object are labelled `object`. `relations=P36,P19` keeps some relations,
`count=200` that many facts, chosen by a hash and the `seed`.
"""

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path

from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import CorpusError
from neurodial.interpret.corpora.corpus import BadRow, Example, Rows, Sentence, lot
from neurodial.interpret.corpora.specs import Spec, table_rows

LABEL = "object"
COLUMNS = ["relation", "subject", "object"]


def read(spec: Spec) -> tuple[Callable[[], Rows], tuple[str, ...]]:
    """Facts, each in every pattern of its relation.

    Raises:
        CorpusError: for a patterns file that is missing, or a pattern without both places.
    """
    spec.check_options("patterns", "relations", "count", "seed", "where")
    if "patterns" not in spec.options:
        raise CorpusError(
            f"{spec.name}: it does not say how facts are put into words", hint="write facts:FILE?patterns=FILE"
        )
    patterns = _patterns(spec)
    count = spec.whole("count", 0)

    def rows() -> Rows:
        number = 0
        for fact, (where, row) in enumerate(_chosen(spec, patterns, count)):
            if isinstance(row, str):
                yield BadRow(where, row)
                continue
            key = "\t".join(row[column] for column in COLUMNS)
            for pattern in patterns[row["relation"]]:
                yield Example(number, stated(pattern, row["subject"], row["object"]), key=key, fact=fact)
                number += 1

    return rows, (LABEL,)


def stated(pattern: str, subject: str, answer: str) -> Sentence:
    """A fact in the words of a pattern, the object's words labelled."""
    before, _, after = pattern.partition("[Y]")
    text = before.replace("[X]", subject)
    start, end = len(text), len(text) + len(answer)
    sentence = Sentence.of(text + answer + after.replace("[X]", subject))
    labels = tuple(LABEL if a < end and start < b else NONE_CLASS for a, b in sentence.words)
    return Sentence(sentence.text, sentence.words, labels)


def _patterns(spec: Spec) -> dict[str, list[str]]:
    wanted = {name for name in spec.options.get("relations", "").split(",") if name}
    found: dict[str, list[str]] = {}
    for where, row in table_rows(spec, ["relation", "pattern"], Path(spec.options["patterns"]).expanduser()):
        if isinstance(row, str):
            raise CorpusError(f"{where}: {row}")
        text = " ".join(row["pattern"].split()).removesuffix(" .").removesuffix(".") + "."
        if text.count("[X]") != 1 or text.count("[Y]") != 1:
            raise CorpusError(f"{where}: the pattern {row['pattern']!r} does not have [X] and [Y] once each")
        here = found.setdefault(row["relation"], [])
        if (not wanted or row["relation"] in wanted) and text not in here:
            here.append(text)
    if missing := sorted(wanted - set(found)):
        raise CorpusError(f"{spec.name}: there is no pattern of the relation {missing[0]!r}")
    return {relation: texts for relation, texts in found.items() if texts}


def _chosen(spec: Spec, patterns: dict[str, list[str]], count: int) -> Iterator[tuple[str, dict[str, str] | str]]:
    """The rows of facts that there are patterns for: all, or `count` of them in the order of the file."""
    rows = ((where, row) for where, row in table_rows(spec, COLUMNS) if _stateable(row, patterns))
    if not count:
        return rows
    seed = spec.whole("seed", 0)
    drawn = heapq.nsmallest(count, enumerate(rows), key=lambda item: (_draw(seed, item[1][1]), item[0]))
    return iter([row for _, row in sorted(drawn, key=lambda item: item[0])])


def _stateable(row: dict[str, str] | str, patterns: dict[str, list[str]]) -> bool:
    return isinstance(row, str) or row["relation"] in patterns


def _draw(seed: int, row: dict[str, str] | str) -> bytes:
    text = row if isinstance(row, str) else "\t".join(row[column] for column in COLUMNS)
    return lot(seed, text)
