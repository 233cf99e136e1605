"""The text that the demo model is trained on, with the held-out minimal pairs taken out of it."""

import csv
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

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
    return [MinimalPair(*(row[name] for name in ("en_present", "en_past", "es_present", "es_past", "en_lemma"))) for row in rows]


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
