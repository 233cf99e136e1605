"""What four ways to adapt the demo model gain and forget: `make adapt-results DATA=…`.

Three parts: news (settings by cross-validation on `valid`, `test` once at the end), questions of Tatoeba with the same
settings, and text in the present tense alone, with and without the neurons of tense held. Every step's figures are kept
in the build folder and taken up again, so that a run that was interrupted goes on where it stopped.
"""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.controls import Control
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import compile_controls
from neurodial.deploy.demo import DEMO_HALF, DEMO_MODEL, DEMO_SETS
from neurodial.interpret.activations.generation import generate_texts
from neurodial.interpret.common.versions import package_versions
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.rankings.ranking_file import Ranking
from neurodial.interpret.reports.pictures import png
from neurodial.interpret.studies.adaptation.adapter import Adapter
from neurodial.interpret.studies.adaptation.job import Job, run_job
from neurodial.interpret.studies.adaptation.measuring import Measuring
from neurodial.interpret.studies.adaptation.report import plot
from neurodial.interpret.studies.adaptation.settings import STRATEGIES, AdaptationSettings, Protected, Strategy, Texts
from neurodial.interpret.studies.pruning.quality import Perplexity
from neurodial.interpret.studies.pruning.recovery import SETTINGS as DISTILLING
from neurodial.interpret.training.settings import Settings
from tests.documentation.filling import PAGES, RESULTS, keep
from tests.experiments.common import Data, Out, Steps, Work
from tests.experiments.demo_en_es.corpora import minimal_pairs, read_tsv
from tests.experiments.demo_en_es.scoring import interval, load_scorer

TRAINING = Settings(steps=30, evaluations=3, dropout=True, precision="bfloat16")
FOLDS = 2
DEV_EVERY = 7  # one sentence in seven of the news to learn from is to choose by
# Tried by cross-validation on the news; of each way the one that is best by `chosen` goes on.
CANDIDATES: tuple[tuple[Strategy, dict[str, Any]], ...] = (
    ("full", {"rate": 5e-4}),
    ("lora", {"rate": 3e-3}),
    ("freeze-salient", {"rate": 1e-3, "hold": 0.5}),
    ("freeze-salient", {"rate": 1e-3, "hold": 0.25, "train_shared": True}),
    ("prune-expand", {"rate": 3e-3}),
    ("full", {"rate": 1e-3}),
    ("lora", {"rate": 1e-2}),
    ("freeze-salient", {"rate": 2e-3, "hold": 0.5}),
)
MANNER = AdaptationSettings(
    TRAINING, distilling=replace(DISTILLING, minutes=None, steps=50, evaluations=2, precision="bfloat16")
)
PARTS = ("cv", "news", "questions", "tense")
ROOM = "expanded"
SCALES = {"news": 1.0, "questions": 0.4}  # of the rates: the model has seen such questions, and learns less from them
TENSE_RATE, TENSE_HOLD = 3e-4, 0.5
SIZES = {"general": 1200, "general_dev": 150, "general_test": 300, "domain": 3000, "domain_dev": 150, "tense": 200}
Results = dict[str, Any]
Row = Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """How much is tried and trained.

    Attributes:
        manner: of every training, but for what a candidate says otherwise.
        candidates: ways with their settings.
        cv_steps: of a training of the cross-validation.
        seeds: of the trainings that are reported.
    """

    manner: AdaptationSettings = MANNER
    candidates: tuple[tuple[Strategy, dict[str, Any]], ...] = CANDIDATES
    cv_steps: int = 12
    seeds: tuple[int, ...] = (0, 1, 2)

    def manner_of(
        self, settings: Mapping[str, Any], pruned: LoadedModel | None = None, steps: int | None = None
    ) -> AdaptationSettings:
        """A candidate's manner."""
        own = {name: value for name, value in settings.items() if name != "rate"}
        training = replace(self.manner.training, steps=steps) if steps else self.manner.training
        rates = dict.fromkeys(STRATEGIES, settings["rate"])
        return replace(self.manner, training=training, rates=rates, pruned=pruned, **own)


def corpus_of(name: str, rows: Iterable[Row], limit: int | None = None) -> Corpus:
    """Parallel text of rows with `en` and `es`: the first ones in an order that a hash of their text decides."""
    ordered = sorted(rows, key=lambda row: hashlib.sha256(row["en"].encode()).hexdigest())[:limit]
    examples = [Example(i, Sentence.of(r["en"]), target=Sentence.of(r["es"])) for i, r in enumerate(ordered)]
    return Corpus.of(name, examples)


class DemoTexts:
    """The texts of all parts, and who judges translations.

    Args:
        data: the data folder.
        sizes: how many sentences of each kind are taken.
        scorer: tells an output's tense.
    """

    def __init__(self, data: Path, sizes: Mapping[str, int], scorer: Any) -> None:
        self.folder, self.sizes, self.scorer = data, sizes, scorer
        rows = {split: read_tsv(data / f"tatoeba_en_es.{split}.tsv.gz") for split in ("train", "valid", "test")}
        asked = {split: [r for r in found if r["en"].endswith("?")] for split, found in rows.items()}
        said = {split: [r for r in found if not r["en"].endswith("?")] for split, found in rows.items()}
        self.general = corpus_of("Tatoeba but questions, train", said["train"], sizes["general"])
        self.general_dev = corpus_of("Tatoeba but questions, valid", said["valid"], sizes["general_dev"])
        self.general_test = corpus_of("Tatoeba but questions, test", said["test"], sizes["general_test"])
        self.questions = self._texts(
            corpus_of("Tatoeba questions, train", asked["train"], sizes["domain"]),
            corpus_of("Tatoeba questions, valid", asked["valid"], sizes["domain_dev"]),
        )
        self.questions_test = corpus_of("Tatoeba questions, test", asked["test"])
        news = read_tsv(data / "pud_en_es.tsv.gz")
        self.news = list(corpus_of("news, valid", (r for r in news if r["split"] == "valid")))
        self.news_test = corpus_of("news, test", (r for r in news if r["split"] == "test"))

    def _texts(self, domain: Corpus, dev: Corpus) -> Texts:
        return Texts(self.general, self.general_dev, domain, dev)

    def news_texts(self, fold: int | None = None) -> Texts:
        """The news to learn from and to choose by; with a fold, that fold's sentences to choose by."""
        held = range(fold, len(self.news), FOLDS) if fold is not None else range(0, len(self.news), DEV_EVERY)
        dev = [self.news[i] for i in held]
        rest = [example for i, example in enumerate(self.news) if i not in held]
        return self._texts(Corpus.of("news, valid, learnt from", rest), Corpus.of("news, valid, held out", dev))

    def tense(self, tense: str, split: str, limit: int) -> Corpus:
        """Sentences of one tense."""
        rows = read_tsv(self.folder / "tense_en_es.tsv.gz")
        kept = [row for row in rows if (row["tense"], row["split"]) == (tense, split)]
        return corpus_of(f"{tense} tense, {split}", kept, limit)


def cross_validation(
    loaded: LoadedModel, pruned: LoadedModel | None, data: DemoTexts, steps: Steps, plan: Plan
) -> list[Results]:
    """Loss on held-out news, and on general text, of each candidate and fold, and how much better than before."""
    general = Perplexity.of(loaded, data.general_dev)
    work = steps.folder / "work-cv"

    def one(way: Strategy, settings: dict[str, Any], fold: int) -> Results:
        manner = plan.manner_of(settings, pruned, plan.cv_steps)
        adapter = Adapter(loaded, data.news_texts(fold), manner, work, steps.folder / ROOM)
        made = adapter.adapt(way)
        lost = general.measure(made.loaded)["loss"] - general.measure(loaded)["loss"]
        gain = made.training["dev_loss_before"] - made.training["dev_loss"]
        return {"way": way, "settings": settings, "fold": fold, "gain": gain, "forgetting": lost}

    return [
        steps(f"cv {number} {way} {fold}", partial(one, way, settings, fold))
        for number, (way, settings) in enumerate(plan.candidates)
        for fold in range(FOLDS)
    ]


def chosen(tried: list[Results]) -> dict[Strategy, dict[str, Any]]:
    """Of each way the candidate that forgets least among those with 90 % of full fine-tuning's gain, or gains most."""

    def mean(candidate: Results, figure: str) -> float:
        same = [t[figure] for t in tried if (t["way"], t["settings"]) == (candidate["way"], candidate["settings"])]
        return float(sum(same) / len(same))

    whole = max(mean(t, "gain") for t in tried if t["way"] == "full")
    best: dict[Strategy, dict[str, Any]] = {}
    for way in STRATEGIES:
        own = [t for t in tried if t["way"] == way]
        enough = [t for t in own if mean(t, "gain") >= 0.9 * whole]
        pick = min(enough, key=lambda t: mean(t, "forgetting")) if enough else max(own, key=lambda t: mean(t, "gain"))
        best[way] = pick["settings"]
    return best


def adapted(
    loaded: LoadedModel, pruned: LoadedModel | None, part: str, texts: Texts, tests: tuple[Corpus, Corpus],
    settings: Mapping[Strategy, Any], steps: Steps, sets: tuple[NeuronSet, ...], plan: Plan,
) -> tuple[Results, dict[Strategy, LoadedModel]]:  # fmt: skip
    """One report of all ways, and their models of the first seed."""
    scale = SCALES[part]
    manner = replace(
        plan.manner,
        pruned=pruned,
        rates={way: scale * settings[way]["rate"] for way in STRATEGIES},
        **{name: value for way in STRATEGIES for name, value in settings[way].items() if name != "rate"},
    )
    job = Job(texts, *tests, manner, STRATEGIES, plan.seeds, sets, steps.folder / f"work-{part}", steps.folder / ROOM)
    outcome = run_job(loaded, job, lambda run: typer.echo(f"{part}: {run['way']} {run['seed']}", err=True))
    return outcome.report, outcome.made


def tense_switching(loaded: LoadedModel, found: NeuronSet, data: DemoTexts) -> Results:
    """What the demo's tense set does on a model: share of minimal pairs that it switches, by tense."""
    catalogue = SetCatalogue({"tense": found})
    shares: Results = {}
    for to, source in (("past", "present"), ("present", "past")):
        texts = [getattr(pair, f"en_{source}") for pair in minimal_pairs(data.folder, "test")]
        compiled = compile_controls(loaded, [Control(set="tense", to=to)], catalogue, allow_changed_weights=True)
        switched = [data.scorer.switched(output, to) for output in generate_texts(loaded, texts, compiled)]
        shares[to] = {"switched": sum(switched) / len(switched), "switched_95": interval(switched)}
    return shares


def protected(loaded: LoadedModel, data: DemoTexts, found: NeuronSet, steps: Steps, plan: Plan) -> Results:
    """Training on the present tense alone: freely, and with neurons held; what becomes of both tenses."""
    size = data.sizes["tense"]
    quality = {tense: Measuring(loaded, data.tense(tense, "test", size)) for tense in ("present", "past")}
    present, dev = data.tense("present", "train", data.sizes["domain"]), data.tense("present", "valid", size)
    past = data.tense("past", "train", data.sizes["general"])
    texts = Texts(past, data.tense("past", "valid", data.sizes["general_dev"]), present, dev)

    def measured(model: LoadedModel) -> Results:
        figures: Results = {}
        for tense, measuring in quality.items():
            found = measuring.measure(model)
            right = [data.scorer.tense(output) == tense for output in found.outputs]
            figures[tense] = {"right": sum(right) / len(right), "right_95": interval(right)} | found.figures
        return figures

    base = plan.manner_of({"rate": TENSE_RATE})
    held = replace(base, train_shared=True)
    arms: dict[str, tuple[Strategy, AdaptationSettings]] = {
        "freely": ("full", base),
        "tense set held": ("freeze-salient", replace(held, hold=0.0, protected=Protected(Ranking.of_set(found)))),
        "salient for the past held": ("freeze-salient", replace(base, hold=TENSE_HOLD)),
        "as many random neurons held": ("freeze-salient", replace(base, hold=TENSE_HOLD, by="random")),
    }

    def arm(name: str) -> Results:
        way, manner = arms[name]
        work = steps.folder / f"work-tense-{list(arms).index(name)}"
        made = Adapter(loaded, texts, manner, work).adapt(way)
        shutil.rmtree(work, ignore_errors=True)
        return {"after": measured(made.loaded), "trained": made.trained, "settings": manner.document(way, 0)}

    before = steps("tense before", lambda: measured(loaded))
    numbered = enumerate(arms)
    return {"before": before, "arms": {name: steps(f"tense {n}", partial(arm, name)) for n, name in numbered}}


def run(
    loaded: LoadedModel,
    found: NeuronSet,
    data: DemoTexts,
    steps: Steps,
    parts: Iterable[str] = PARTS,
    *,
    pruned: LoadedModel | None = None,
    plan: Plan = Plan(),
) -> Results:
    """All parts, or some of them.

    Args:
        loaded: the demo model.
        found: its tense set.
        data: the texts.
        steps: what is done already.
        parts: of `PARTS`; what they need of the cross-validation is made first.
        pruned: the demo model's pruned and recovered variant, which is expanded; by default one is made.
        plan: how much is tried and trained.
    """
    results: Results = {}
    if {"cv", "news", "questions"} & set(parts):
        tried = cross_validation(loaded, pruned, data, steps, plan)
        settings = chosen(tried)
        results["cv"] = {"tried": tried, "chosen": settings}
    jobs = {
        "news": (data.news_texts(), (data.general_test, data.news_test)),
        "questions": (data.questions, (data.general_test, data.questions_test)),
    }
    for part in (part for part in jobs if part in parts):

        def both(part: str = part) -> Results:
            report, made = adapted(loaded, pruned, part, *jobs[part], settings, steps, (found,), plan)
            if part == "news":
                report["tense"] = {way: tense_switching(model, found, data) for way, model in made.items()}
                report["tense"]["before"] = tense_switching(loaded, found, data)
            return report

        results[part] = steps(part, both)
        shutil.rmtree(steps.folder / f"work-{part}", ignore_errors=True)
    if "tense" in parts:
        results["tense"] = protected(loaded, data, found, steps, plan)
    return results


def main(
    data: Data,
    part: list[str] = typer.Option(list(PARTS), help="cv, news, questions or tense; repeatable, to share the work"),
    work: Work = Path("build/adapt-results"),
    out: Out = RESULTS / "adaptation.json",
    pictures: Annotated[Path, typer.Option(help="receives the pictures")] = PAGES,
) -> None:
    """Adapts the demo model to news and to questions in four ways, and protects its tense."""
    found = NeuronSet.load(DEMO_SETS["tense"])
    half = load_model(DEMO_HALF)
    results = run(
        load_model(DEMO_MODEL), found, DemoTexts(data, SIZES, load_scorer(data)), Steps(work), part, pruned=half
    )
    if set(results) != set(PARTS):
        typer.echo(f"{', '.join(results)}: done; the figures are written when all parts are")
        return
    for name in ("news", "questions"):
        png(plot(results[name]), pictures / f"adaptation-{name}.png", (825, 495))
    keep(results | {"versions": package_versions(("neurodial", "torch", "transformers", "peft", "numpy"))}, out)
    typer.echo(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
