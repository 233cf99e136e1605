"""The script that distils the demo models, on a tiny one."""

from itertools import product
from pathlib import Path

from tests.documentation.model_tables import distilled
from tests.experiments.common import Steps
from tests.experiments.results.distillation import run

VERBS = [("opens", "now"), ("closes", "now"), ("opened", "then"), ("closed", "then")]
THINGS = ("door", "book", "house", "tall house", "tall door")


def test_every_task_is_distilled_once(tiny_marian_path: Path, tmp_path: Path) -> None:
    rows = [f"{who} {v} the {o}.\t{t}" for who, (v, t), o in product(("She", "He"), VERBS, THINGS)]
    for part, lines in {"train": rows * 2, "test": rows}.items():
        (tmp_path / f"{part}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    specs = tuple(f"sentences:{tmp_path}/{part}.tsv" for part in ("train", "test"))
    assert len(specs) == 2

    def once() -> list[str]:
        return list(distilled(run({"tiny": tiny_marian_path}, {"tense": specs}, Steps(tmp_path / "made"), 100)))

    made = once()
    assert made[2].startswith("| `tiny` | tense | ")
    kept = tmp_path / "made" / "tiny-tense.json"
    kept.write_text(kept.read_text(encoding="utf-8").replace('"kept": ', '"kept": 1'), encoding="utf-8")
    assert once() != made, "what is there is not made again"
