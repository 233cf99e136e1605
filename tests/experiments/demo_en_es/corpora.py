"""The text that the demo model is trained on, with the held-out minimal pairs taken out of it."""

import csv
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from tests.experiments.demo_en_es.english_tense import FormTable, Span, move_tense

NUM_DEV_PAIRS = 60


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Reads a tab-separated file with a header, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


@dataclass(frozen=True)
class MinimalPair:
    """One English sentence in the present and in the past, with a Spanish translation of each."""

    en_present: str
    en_past: str
    es_present: str
    es_past: str
    lemma: str


def minimal_pairs(data: Path, split: str) -> list[MinimalPair]:
    """The minimal pairs of `train`, `dev` (60 of the file's train rows, chosen by a hash of their text) or `test`."""
    rows = read_tsv(data / "tense_minimal_pairs_en_es.tsv")
    if split != "test":
        kept = sorted((row for row in rows if row["split"] == "train"), key=lambda row: _order(row["en_present"]))
        rows = kept[:NUM_DEV_PAIRS] if split == "dev" else kept[NUM_DEV_PAIRS:]
    else:
        rows = [row for row in rows if row["split"] == "test"]
    return [
        MinimalPair(*(row[name] for name in ("en_present", "en_past", "es_present", "es_past", "en_lemma")))
        for row in rows
    ]


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def training_pairs(data: Path) -> list[tuple[str, str]]:
    """The rows of `tatoeba_en_es.train.tsv.gz` but for those with an English sentence of a held-out minimal pair."""
    held_out = {
        _key(text)
        for split in ("dev", "test")
        for pair in minimal_pairs(data, split)
        for text in (pair.en_present, pair.en_past)
    }
    rows = read_tsv(data / "tatoeba_en_es.train.tsv.gz")
    return [(row["en"], row["es"]) for row in rows if _key(row["en"]) not in held_out]


@dataclass(frozen=True)
class TensePair:
    """An English sentence in both tenses, with the character spans of its verbs in each."""

    text: dict[str, str]
    spans: dict[str, tuple[Span, ...]]


def verb_forms(data: Path) -> FormTable:
    """Finite verb forms read off UD English EWT's training part."""
    words = []
    with gzip.open(data / "ud" / "en_ewt.train.conllu.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            columns = line.rstrip("\n").split("\t")
            if len(columns) == 10 and columns[0].isdigit():
                words.append((columns[1], columns[2], columns[4]))
    return FormTable.from_words(words)


def tense_pairs(data: Path) -> list[TensePair]:
    """Training sentences of known tense, each with the same sentence moved to the other tense by rule.

    No sentence of a validation or test file, nor of the held-out minimal pairs, is on either side of a pair.
    """
    rows = read_tsv(data / "tense_en_es.tsv.gz")
    held_out = {_key(row["en"]) for row in rows if row["split"] != "train"}
    held_out |= {
        _key(row["en"]) for split in ("valid", "test") for row in read_tsv(data / f"tatoeba_en_es.{split}.tsv.gz")
    }
    held_out |= {
        _key(t) for split in ("dev", "test") for p in minimal_pairs(data, split) for t in (p.en_present, p.en_past)
    }
    table, pairs = verb_forms(data), {}
    for row in rows:
        moved = move_tense(row["en"], row["tense"], table, int(row["n_finite_verbs"]))
        if moved is None or row["split"] != "train" or {_key(moved.source), _key(moved.target)} & held_out:
            continue
        here, other = row["tense"], {"present": "past", "past": "present"}[row["tense"]]
        pairs[_key(moved.source)] = TensePair(
            {here: moved.source, other: moved.target}, {here: moved.source_spans, other: moved.target_spans}
        )
    return list(pairs.values())
