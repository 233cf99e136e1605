"""What the scripts share: options of their command lines, the parallel text, and steps that are done once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.corpora.readers import open_corpus

Data = Annotated[Path, typer.Option(exists=True, file_okay=False, help="the data folder; the scorer lies beside it")]
Model = Annotated[Path, typer.Option(exists=True, file_okay=False, help="checkpoint")]
CalibrationFile = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="the model's calibration")]
Out = Annotated[Path, typer.Option(help="receives the figures; its page is filled where it is the committed file")]
Work = Annotated[Path, typer.Option(help="keeps what is done, so that a run that was stopped goes on where it was")]


def parallel(data: Path, split: str) -> Corpus:
    """The sentence pairs of `train`, `valid` or `test`."""
    return open_corpus(f"parallel:{data}/tatoeba_en_es.{split}.tsv.gz?source=en&target=es")


class Steps:
    """Figures of steps that are done, one file each.

    Args:
        folder: for the files.
        key: of what is measured; a step that was done for another one is made anew.
    """

    def __init__(self, folder: Path, key: Any = None) -> None:
        self.folder, self.key = folder, key

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        """A step's figures, made now if they are not there."""
        file = self.folder / f"{name.replace(' ', '-')}.json"
        if file.is_file() and (kept := json.loads(file.read_text(encoding="utf-8")))["key"] == self.key:
            return kept["made"]
        typer.echo(name, err=True)
        text = json.dumps({"key": self.key, "made": make()}, ensure_ascii=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".part").write_text(text, encoding="utf-8")
        file.with_suffix(".part").replace(file)
        return json.loads(text)["made"]
