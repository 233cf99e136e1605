"""What the demo's tense control does, beside its ceiling and its baselines: `make evaluate DATA=…`.

Settings were chosen on the dev pairs and on `split=valid` (`--split dev`); the test split is for the end.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import NeuronSet, SiteNeurons
from neurodial.control.controls import Control
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import compile_controls
from neurodial.deploy.demo import DEMO_MODEL, DEMO_SETS
from neurodial.interpret.activations.generation import generate_texts
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from tests.documentation.control_tables import tense
from tests.documentation.filling import keep
from tests.experiments import pictures
from tests.experiments.common import Data, Model, Out
from tests.experiments.demo_en_es.corpora import MinimalPair, minimal_pairs, read_tsv
from tests.experiments.demo_en_es.paired import Differences, paired_differences
from tests.experiments.demo_en_es.scoring import (
    Scores,
    interval,
    load_scorer,
    switch_scores,
    translation_quality,
)

DIRECTIONS = (("past", "present"), ("present", "past"))
CURVE = (5, 10, 30, 100)
SEEDS = range(5)
SHIFT_STRENGTH = 2.0  # at which plain shifts work best on the dev pairs
QUICKSTART = "grammar:tense"  # the corpus of the README's discovery command


@dataclass(frozen=True)
class Suite:
    """The sentences of one split with what the uncontrolled model says of them."""

    pairs: list[MinimalPair]
    sentences: dict[str, list[str]]
    pair_outputs: dict[str, list[str]]
    sentence_outputs: dict[str, list[str]]


def load_suite(loaded: LoadedModel, data: Path, split: str, count: int) -> Suite:
    """The minimal pairs, and `count` sentences of each tense in an order that a hash of their text decides."""
    pairs = minimal_pairs(data, split)
    rows = [r for r in read_tsv(data / "tense_en_es.tsv.gz") if r["split"] == {"dev": "valid"}.get(split, split)]
    rows.sort(key=lambda row: hashlib.sha256(row["en"].encode()).hexdigest())
    sentences = {tense: [r["en"] for r in rows if r["tense"] == tense][:count] for tense in ("present", "past")}
    return Suite(
        pairs,
        sentences,
        {tense: generate_texts(loaded, [getattr(p, f"en_{tense}") for p in pairs]) for tense in sentences},
        {tense: generate_texts(loaded, texts) for tense, texts in sentences.items()},
    )


class Evaluation:
    """Runs controls over a suite and scores them, both ways."""

    def __init__(self, loaded: LoadedModel, suite: Suite, scorer: Any) -> None:
        self.loaded, self.suite, self.scorer = loaded, suite, scorer

    def control(self, found: NeuronSet, *, with_sentences: bool = True, **settings: Any) -> Scores:
        """Scores of one control, to each tense."""
        scores: Scores = {}
        for to, source in DIRECTIONS:
            control = Control(set="tense", to=to, **settings)
            compiled = compile_controls(
                self.loaded, [control], SetCatalogue({"tense": found}), allow_changed_weights=True
            )
            outputs = generate_texts(self.loaded, [getattr(p, f"en_{source}") for p in self.suite.pairs], compiled)
            scores[f"to_{to}"] = {"pairs": self.pair_scores(outputs, to, source)}
            if with_sentences:
                outputs = generate_texts(self.loaded, self.suite.sentences[source], compiled)
                scores[f"to_{to}"]["sentences"] = self.sentence_scores(outputs, to, source)
        return scores

    def pair_scores(self, outputs: list[str], to: str, source: str) -> Scores:
        """Over all pairs, and over those whose verb is neither *be* nor *do*."""
        chosen = [i for i, p in enumerate(self.suite.pairs) if p.lemma not in ("be", "do")]
        return {
            "all": self._pairs(outputs, range(len(outputs)), to, source),
            "without_be_do": self._pairs(outputs, chosen, to, source),
        }

    def _pairs(self, outputs: list[str], rows: Sequence[int], to: str, source: str) -> Scores:
        base, pairs = self.suite.pair_outputs[source], self.suite.pairs
        references = [getattr(pairs[i], f"es_{to}") for i in rows]
        return switch_scores(self.scorer, [outputs[i] for i in rows], [base[i] for i in rows], references, to)

    def sentence_scores(self, outputs: list[str], to: str, source: str) -> Scores:
        """Over the sentences."""
        return switch_scores(self.scorer, outputs, self.suite.sentence_outputs[source], None, to)

    def fixed(self, *, ceiling: bool) -> Scores:
        """Scores of no control, or of the ceiling: the direct translation of the sentence in the other tense."""
        scores: Scores = {}
        for to, source in DIRECTIONS:
            outputs = self.suite.pair_outputs[to if ceiling else source]
            scores[f"to_{to}"] = {"pairs": self.pair_scores(outputs, to, source)}
            if not ceiling:
                scores[f"to_{to}"]["sentences"] = self.sentence_scores(self.suite.sentence_outputs[source], to, source)
        return scores

    def both_right(self) -> Scores:
        """Share of the pairs whose two direct translations are both in the right tense."""
        outputs = self.suite.pair_outputs
        right = {t: [self.scorer.tense(o) == t for o in outputs[t]] for t in outputs}
        both = [a and b for a, b in zip(right["present"], right["past"], strict=True)]
        shares = {f"{t}_right": round(float(np.mean(values)), 4) for t, values in right.items()}
        return {"n": len(both), "both_right": round(float(np.mean(both)), 4), "both_right_95": interval(both)} | shares


def permuted(found: NeuronSet, width: int, seed: int) -> NeuronSet:
    """The set's own values written to other neurons: the same numbers, the neurons permuted within each site."""
    order = np.random.default_rng(seed).permutation(width)
    return replace(found, sites=tuple(replace(s, indices=order[s.indices]) for s in found.sites))


def random_neurons(found: NeuronSet, differences: Differences, seed: int) -> NeuronSet:
    """As many random neurons of the same sites, each with its own mean difference between the labels."""
    draw = np.random.default_rng(seed)
    sites = []
    for s in found.sites:
        chosen = draw.permutation(len(differences[s.site]["past"]))[: len(s.indices)].astype(np.int64)
        sites.append(_shifted(s, chosen, {to: delta[chosen] for to, delta in differences[s.site].items()}))
    return replace(found, sites=tuple(sites))


def own_differences(found: NeuronSet, differences: Differences) -> NeuronSet:
    """The set's neurons with their mean differences, to compare random neurons with like for like."""
    sites = [
        _shifted(s, s.indices, {to: delta[s.indices] for to, delta in differences[s.site].items()}) for s in found.sites
    ]
    return replace(found, sites=tuple(sites))


def _shifted(s: SiteNeurons, indices: np.ndarray[Any, Any], delta: dict[str, np.ndarray[Any, Any]]) -> SiteNeurons:
    return replace(s, indices=indices, delta=delta, maps={})


def evaluate(loaded: LoadedModel, found: NeuronSet, data: Path, split: str) -> Scores:
    """The whole table: model, set, baselines, curve."""
    suite = load_suite(loaded, data, split, 300)
    run = Evaluation(loaded, suite, load_scorer(data))
    differences = paired_differences(loaded, data, [s.site for s in found.sites])
    width = {s.site: loaded.sites.info(s.site).width for s in found.sites}[found.sites[0].site]
    results: Scores = {
        "split": split,
        "model": {"fingerprint": loaded.fingerprint, "name": loaded.name},
        "set": {
            "digest": found.digest,
            "neurons_written": found.num_neurons,
            "neurons_read_by_gate": _gate_reads(found),
            "neurons_read_by_maps": max((len(m.read) for s in found.sites for m in s.maps.values()), default=0),
        },
        "translation": translation_quality(
            lambda t: generate_texts(loaded, t), data, {"dev": "valid"}.get(split, split)
        ),
        "direct": run.both_right(),
    }
    steps: dict[str, Callable[[], Any]] = {
        "ceiling": lambda: run.fixed(ceiling=True),
        "no_control": lambda: run.fixed(ceiling=False),
        "tense": lambda: run.control(found),
        "ungated": lambda: run.control(found, where="all"),
        "permuted": lambda: [run.control(permuted(found, width, seed)) for seed in SEEDS],
        "own_differences": lambda: run.control(
            own_differences(found, differences), op="shift", strength=SHIFT_STRENGTH
        ),
        "random_neurons": lambda: [
            run.control(random_neurons(found, differences, seed), op="shift", strength=SHIFT_STRENGTH) for seed in SEEDS
        ],
        "grammar": lambda: run.control(discover(loaded, open_corpus(QUICKSTART), Discovery("tense"))),
        "curve": lambda: {k: run.control(found, top=k) for k in CURVE if k <= found.num_neurons},
    }
    for name, step in steps.items():
        typer.echo(name, err=True)
        results[name] = step()
    return results


def _gate_reads(found: NeuronSet) -> int:
    return max((len(r.indices) for s in found.sites if (r := found.readout_for(s.site))), default=0)


def main(
    data: Data,
    model: Model = DEMO_MODEL,
    set_file: Annotated[Path, typer.Option("--tense", help="the set to evaluate")] = DEMO_SETS["tense"],
    split: Annotated[str, typer.Option(help="test, or dev while settings are being chosen")] = "test",
    out: Out = Path("build/evaluate/tense.json"),
    dtype: Annotated[str, typer.Option()] = "float32",
) -> None:
    """Evaluates the demo model's tense control; a picture goes beside the figures."""
    results = evaluate(load_model(model, dtype=dtype), NeuronSet.load(set_file), data, split)
    pictures.tense(results, out.with_suffix(".png"))
    keep(results, out)
    print({name: results[name] for name in ("set", "translation", "direct")})
    for to, _ in DIRECTIONS:
        print(f"\nto {to} ({split})\n", *tense(results, to), sep="\n")
    print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
