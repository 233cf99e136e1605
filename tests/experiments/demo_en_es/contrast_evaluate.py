"""What the demo's number and negation controls do to held-out pairs of the grammars: `make evaluate-contrasts DATA=…`.

Beside its ceiling (the direct translation of the other sentence) and its baselines: no control, no gate, and the same
values on permuted neurons.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.controls import Control
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import compile_controls
from neurodial.deploy.demo import DEMO_MODEL, DEMO_SETS
from neurodial.interpret.activations.generation import generate_texts
from neurodial.interpret.corpora.corpus import split_of
from neurodial.interpret.corpora.grammars.contrasts import LABELS, Contrast, generate_contrasts
from tests.documentation.control_tables import PARTS, contrast
from tests.documentation.filling import RESULTS, keep
from tests.experiments.common import Data, Model, Out
from tests.experiments.demo_en_es.contrast_scores import ContrastScorer
from tests.experiments.demo_en_es.contrast_sets import unseen_word
from tests.experiments.demo_en_es.evaluate import permuted

Scores = dict[str, Any]
CURVE = (10, 30)
SEEDS = range(3)
WRITTEN = 12_000  # pairs from which the held-out ones are taken; more than any set was made of


def held_out(concept: str, part: str, count: int) -> list[Contrast]:
    """Pairs that no set was made with: `seen words` in unseen sentences, or `unseen words`."""
    pairs = generate_contrasts(concept, WRITTEN)
    if part == "unseen words":
        found = [pair for pair in pairs if unseen_word(pair)]
    else:
        found = [pair for pair in pairs if not unseen_word(pair) and split_of(pair.texts[0]) == "test"]
    return found[:count]


class ContrastEvaluation:
    """Runs controls over held-out pairs of one concept, both ways."""

    def __init__(self, loaded: LoadedModel, concept: str, pairs: list[Contrast], scorer: ContrastScorer) -> None:
        self.loaded, self.concept, self.scorer, self.pairs = loaded, concept, scorer, pairs
        self.labels = LABELS[concept]
        self.direct = {
            label: generate_texts(loaded, [pair.texts[side] for pair in pairs])
            for side, label in enumerate(self.labels)
        }

    def control(self, found: NeuronSet, **options: Any) -> Scores:
        """Scores of one control, to each label."""
        scores = {}
        for side, to in enumerate(self.labels):
            compiled = compile_controls(
                self.loaded, [Control(set=self.concept, to=to, **options)], SetCatalogue({self.concept: found})
            )
            outputs = generate_texts(self.loaded, [pair.texts[1 - side] for pair in self.pairs], compiled)
            scores[f"to_{to}"] = self._report(outputs, side)
        return scores

    def fixed(self, *, ceiling: bool) -> Scores:
        """Scores of the direct translation of the other sentence, or of no control."""
        return {
            f"to_{to}": self._report(self.direct[self.labels[side if ceiling else 1 - side]], side)
            for side, to in enumerate(self.labels)
        }

    def _report(self, outputs: list[str], side: int) -> Scores:
        to, other = self.labels[side], self.labels[1 - side]
        return self.scorer.report(self.concept, outputs, self.direct[other], self.direct[to], to)


def evaluate(loaded: LoadedModel, found: NeuronSet, data: Path, count: int) -> Scores:
    """The whole table of one set."""
    scorer = ContrastScorer(data)
    results: Scores = {
        "concept": found.concept,
        "model": {"name": loaded.name, "fingerprint": loaded.fingerprint},
        "set": {"digest": found.digest, "neurons": found.num_neurons},
    }
    for part in PARTS:
        run = ContrastEvaluation(loaded, found.concept, held_out(found.concept, part, count), scorer)
        results[part] = _scores(run, found, baselines=part == PARTS[0])
    return results


def _scores(run: ContrastEvaluation, found: NeuronSet, *, baselines: bool) -> Scores:
    scores = {
        "ceiling: direct translation": run.fixed(ceiling=True),
        "no control": run.fixed(ceiling=False),
        f"{found.concept} set": run.control(found),
    }
    if baselines:
        width = run.loaded.sites.info(found.sites[0].site).width
        scores["same neurons, not gated"] = run.control(found, where="all")
        for top in CURVE:
            scores[f"{found.concept}, {top} neurons"] = run.control(found, top=top)
        scores["same values, permuted neurons"] = _mean([run.control(permuted(found, width, seed)) for seed in SEEDS])
    return scores


def _mean(values: list[Any]) -> Any:
    """The mean of every figure over several runs."""
    first = values[0]
    if isinstance(first, dict):
        return {name: _mean([value[name] for value in values]) for name in first}
    return None if first is None else np.mean(values, axis=0).round(4).tolist()


def main(
    data: Data,
    model: Model = DEMO_MODEL,
    sets: list[Path] = typer.Option([DEMO_SETS["number"], DEMO_SETS["negation"]], help="the sets; repeatable"),
    count: Annotated[int, typer.Option(help="pairs of each part")] = 300,
    out: Out = RESULTS / "contrasts.json",
) -> None:
    """Evaluates the demo model's number and negation controls."""
    loaded, results = load_model(model), {}
    for path in sets:
        found = NeuronSet.load(path)
        results[found.concept] = evaluate(loaded, found, data, count)
        print("\n".join(contrast(results, found.concept)))
    keep(results, out)
    print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
