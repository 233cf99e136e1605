import json
from pathlib import Path
from typing import Any

from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.calibration import calibrate_model
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.reports.pictures import png
from neurodial.interpret.studies.pruning.report import quality_plot
from tests.experiments.results.prune_sweep import RANKINGS, curves_of, losses, run

TEXTS = ("She opens the door.", "The tall boy likes the book.", "He saw the house.", "He closed the door.")


def corpus(name: str) -> Corpus:
    return Corpus.of(name, [Example(i, Sentence.of(t), target=Sentence.of(t)) for i, t in enumerate(TEXTS)])


def test_the_sweep_compares_every_ranking_with_random_pruning(tiny_marian: LoadedModel, tmp_path: Path) -> None:
    corpora = {name: corpus(name) for name in ("scores", "dev", "test")}
    said: list[str] = []
    calibration = calibrate_model(tiny_marian, corpora["scores"])
    short: dict[str, Any] = {"keeps": (0.6,), "seeds": range(2), "rounds": 1, "max_new_tokens": 4}
    results = run(tiny_marian, corpora, calibration, said.append, **short)
    assert set(results["test"]) == {*RANKINGS, "random"}
    assert len(results["test"]["random"]) == 2
    assert [p["keep"] for p in results["curves_dev"]["random"]] == [0.6, 0.6]
    assert all(len(tried) == 6 for tried in results["choices_dev"].values())
    assert results["test"]["magnitude"][0]["left"]["encoder.ffn"] == [40, 40]
    assert len(said) == len(set(said))
    json.dumps(results)
    curves = curves_of(results)
    assert len(curves) == 6
    assert len(curves[-1].spread) == 1
    png(quality_plot(curves, 1.0, {"name": "bleu", "higher_is_better": True}), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_losses_are_stated_as_shares_of_what_random_pruning_loses() -> None:
    found = losses(40.0, {"log-odds": [{"bleu": 38.0}], "random": [{"bleu": 30.0}, {"bleu": 34.0}]})
    assert found == {"log-odds": {"bleu": 2.0, "of_random": 0.25}, "random": {"bleu": 8.0, "of_random": 1.0}}
