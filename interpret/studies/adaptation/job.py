"""The adaptation job: several strategies, several seeds, what each gained on the domain and lost on general text."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurodial.control.artifacts.files import write_atomically
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import BadInput, CorpusError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.surgery.saving import save_pruned
from neurodial.interpret.common.folders import claim_folder
from neurodial.interpret.common.versions import package_versions, time_now
from neurodial.interpret.corpora.corpus import SPLITS, Corpus, Split
from neurodial.interpret.studies.adaptation.adapter import Adapter
from neurodial.interpret.studies.adaptation.measuring import Measured, Measuring, better_by, intervals
from neurodial.interpret.studies.adaptation.sets import check_sets, drift, fate
from neurodial.interpret.studies.adaptation.settings import STRATEGIES, AdaptationSettings, Strategy, Texts
from neurodial.interpret.studies.adaptation.summary import summary

FORMAT_VERSION = 1
LEAST = {"train": 20, "dev": 5, "test": 5}  # examples below which nothing can be learnt, chosen or told
DEV_EXAMPLES = 300
JOB, RUN, MODEL = "job.json", "run.json", "model"
Run = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        texts: to learn from.
        general_test: text on which forgetting is measured.
        domain_test: text on which the gain is measured.
        settings: how to adapt.
        strategies: which ones.
        seeds: of each strategy's training; the models of the first one are kept.
        sets: neuron sets of the base model, whose fate is told.
        work: folder to go on from; None does everything in one go.
        expanded: folder of the model that `prune-expand` expands, for jobs that share it.
    """

    texts: Texts
    general_test: Corpus
    domain_test: Corpus
    settings: AdaptationSettings
    strategies: tuple[Strategy, ...] = STRATEGIES
    seeds: tuple[int, ...] = (0,)
    sets: tuple[NeuronSet, ...] = ()
    work: Path | None = None
    expanded: Path | None = None

    @property
    def corpora(self) -> dict[str, Any]:
        """Role → name, digest and size of each text."""
        named = {
            "general": self.texts.general, "general, to choose by": self.texts.general_dev,
            "general, to test on": self.general_test, "domain": self.texts.domain,
            "domain, to choose by": self.texts.domain_dev, "domain, to test on": self.domain_test,
        }  # fmt: skip
        return {role: corpus.described for role, corpus in named.items()}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of it: each strategy's model of the first seed, as its checkpoint has it, and the report."""

    made: dict[Strategy, LoadedModel]
    report: dict[str, Any] = field(default_factory=dict)


def run_job(loaded: LoadedModel, job: Job, done: Callable[[Run], None] = lambda run: None) -> Outcome:
    """Adapts a model by each strategy with each seed and measures it; `done` is called with each run.

    Runs that the work folder holds are not made again.

    Raises:
        BadInput: for strategies or settings that do not fit, or a work folder of another job.
        CorpusError: if there is too little text, or a translation model has no targets to learn.
        FingerprintError: for neuron sets of another model.
    """
    check_sets(loaded, job.sets)
    _check_strategies(job)
    _check_parallel(loaded, job)
    _check_work(loaded, job)
    adapter = Adapter(loaded, job.texts, job.settings, job.work, job.expanded)
    tests = {"domain": Measuring(loaded, job.domain_test), "general": Measuring(loaded, job.general_test)}
    before = {name: test.measure(loaded) for name, test in tests.items()}
    runs: list[Run] = []
    made: dict[Strategy, LoadedModel] = {}
    for strategy in job.strategies:
        for seed in job.seeds:
            folder = job.work / f"done-{strategy}-{seed}" if job.work else None
            if folder is not None and (folder / RUN).is_file():
                run, model = json.loads((folder / RUN).read_text(encoding="utf-8")), None
                if seed == job.seeds[0]:
                    model = load_model(folder / MODEL, device=str(loaded.model.device))
            else:
                run, model = _one(adapter, job, strategy, seed, tests, before)
                if folder is not None:
                    _keep(folder, run, model if seed == job.seeds[0] else None)
            if model is not None and seed == job.seeds[0]:
                made[strategy] = model
            runs.append(run)
            done(run)
    shown = "chrf" if all("chrf" in measured.figures for measured in before.values()) else "loss"
    return Outcome(made, _report(loaded, job, before, runs, shown))


def _one(
    adapter: Adapter, job: Job, strategy: Strategy, seed: int, tests: dict[str, Measuring], before: dict[str, Measured]
) -> tuple[Run, LoadedModel]:
    adapted = adapter.adapt(strategy, seed)
    run: Run = {"way": strategy, "seed": seed, "settings": job.settings.document(strategy, seed)}
    run["trained"] = adapted.trained
    for name, test in tests.items():
        after = test.measure(adapted.loaded)
        run[name] = {
            "after": after.figures,
            "better_by": better_by(after.figures, before[name].figures),
            "better_by_95": intervals(after, before[name]),
        }
    if job.sets and seed == job.seeds[0]:
        moved = drift(adapter.loaded, adapted.loaded, job.texts.general_dev, job.sets)
        run["sets"] = [fate(found, adapter.loaded, adapted.freed, moved) for found in job.sets]
    run["fingerprint"] = adapted.loaded.fingerprint
    return {**run, "training": dict(adapted.training)}, adapted.loaded


def _keep(folder: Path, run: Run, model: LoadedModel | None) -> None:
    """A finished run; `run.json` is written last and marks it as whole."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if model is not None:
        save_pruned(model, folder / MODEL)
    write_atomically(folder / RUN, json.dumps(run, ensure_ascii=False).encode())


def _check_strategies(job: Job) -> None:
    unknown = [strategy for strategy in job.strategies if strategy not in STRATEGIES]
    if unknown or not job.strategies:
        raise BadInput(f"there is no way {', '.join(unknown)!r}", hint=f"one of {', '.join(STRATEGIES)}, or all")


def _check_parallel(loaded: LoadedModel, job: Job) -> None:
    for corpus in (job.texts.domain, job.texts.domain_dev, job.domain_test):
        if loaded.family == "encoder-decoder" and not corpus.parallel:
            raise CorpusError(
                f"{corpus.name}: it has no target side for {loaded.name} to learn",
                hint="give parallel text, such as parallel:FILE?source=COLUMN&target=COLUMN",
            )


def _check_work(loaded: LoadedModel, job: Job) -> None:
    """Makes the work folder, or refuses one of another job."""
    job.settings.check()
    if job.work is None:
        return
    identity = {
        "model": loaded.fingerprint,
        "texts": {role: text["digest"] for role, text in job.corpora.items()},
        "settings": {strategy: job.settings.document(strategy, 0) for strategy in STRATEGIES},
        "sets": [found.digest for found in job.sets],
    }
    claim_folder(job.work, JOB, identity, "adaptation")


def parts_of(
    name: str, corpus: Corpus, test: Corpus | None, *, limit: int, test_limit: int, seed: int
) -> tuple[Corpus, Corpus, Corpus]:
    """Text to learn from, to choose by, and to test on; never the same example twice.

    Args:
        name: what the text is, for errors: `domain` or `general`.
        corpus: is split by a hash of its texts.
        test: text to test on; without it a tenth of the corpus.
        limit: examples to learn from.
        test_limit: examples to test on.
        seed: of what is drawn.

    Raises:
        CorpusError: if a part would be too small.
    """
    sizes: Counter[Split] = Counter(example.split for example in corpus)
    learning: tuple[Split, ...] = ("train", "test") if test is not None else ("train",)
    have = {"train": sum(sizes[s] for s in learning), "dev": sizes["dev"], "test": test.size if test else sizes["test"]}
    short = [part for part, least in LEAST.items() if have[part] < least]
    if short:
        wanted = ", ".join(f"{have[part]} of {LEAST[part]}" for part in SPLITS)
        raise CorpusError(
            f"{corpus.name}: {corpus.size:,} lines are too few for {name} text: {wanted} needed to learn from, to "
            "choose by and to test on",
            hint=f"give more text, or a test file of its own (--{name}-test)",
        )
    return (
        corpus.drawn(limit, seed, learning),
        corpus.drawn(min(limit, DEV_EXAMPLES), seed, ("dev",)),
        test.drawn(test_limit, seed) if test else corpus.drawn(test_limit, seed, ("test",)),
    )


def _report(loaded: LoadedModel, job: Job, before: dict[str, Measured], runs: Sequence[Run], name: str) -> Run:
    return {
        "format_version": FORMAT_VERSION,
        "model": {"name": loaded.name, "fingerprint": loaded.fingerprint},
        "quality": name,
        "corpora": job.corpora,
        "before": {text: measured.figures for text, measured in before.items()},
        "summary": summary(runs),
        "runs": list(runs),
        "versions": package_versions(("neurodial", "torch", "transformers", "peft", "numpy")),
        "created": time_now(),
    }
