"""The adaptation job: several ways, several seeds, what each gained on the domain and lost on general text."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import BadInput, CorpusError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.surgery.saving import save_pruned
from neurodial.interpret.common.versions import package_versions
from neurodial.interpret.corpora.corpus import SPLITS, Corpus, Split
from neurodial.interpret.studies.adaptation.manner import WAYS, Manner, Texts, Way
from neurodial.interpret.studies.adaptation.measuring import Measured, Measuring, better_by, intervals
from neurodial.interpret.studies.adaptation.sets import check_sets, drift, fate
from neurodial.interpret.studies.adaptation.summary import summary
from neurodial.interpret.studies.adaptation.ways import Adapter
from neurodial.interpret.training.settings import described

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
        manner: how to adapt.
        ways: which ways.
        seeds: of each way's training; the models of the first one are kept.
        sets: neuron sets of the base model, whose fate is told.
        work: folder to go on from; None does everything in one go.
        room: folder of the model that `prune-expand` expands, for jobs that share it.
    """

    texts: Texts
    general_test: Corpus
    domain_test: Corpus
    manner: Manner
    ways: tuple[Way, ...] = WAYS
    seeds: tuple[int, ...] = (0,)
    sets: tuple[NeuronSet, ...] = ()
    work: Path | None = None
    room: Path | None = None

    @property
    def corpora(self) -> dict[str, Any]:
        """Role → name, digest and size of each text."""
        named = {
            "general": self.texts.general, "general, to choose by": self.texts.general_dev,
            "general, to test on": self.general_test, "domain": self.texts.domain,
            "domain, to choose by": self.texts.domain_dev, "domain, to test on": self.domain_test,
        }  # fmt: skip
        return {role: described(corpus) for role, corpus in named.items()}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of it: each way's model of the first seed, as its checkpoint has it, and the report."""

    made: dict[Way, LoadedModel]
    report: dict[str, Any] = field(default_factory=dict)


def run_job(loaded: LoadedModel, job: Job, done: Callable[[Run], None] = lambda run: None) -> Outcome:
    """Adapts a model in each way with each seed and measures it; `done` is called with each run.

    Runs that the work folder holds are not made again.

    Raises:
        BadInput: for ways or settings that do not fit, or a work folder of another job.
        CorpusError: if there is too little text, or a translation model has no targets to learn.
        FingerprintError: for neuron sets of another model.
    """
    check_sets(loaded, job.sets)
    _check_ways(job)
    _check_parallel(loaded, job)
    _check_work(loaded, job)
    adapter = Adapter(loaded, job.texts, job.manner, job.work, job.room)
    tests = {"domain": Measuring(loaded, job.domain_test), "general": Measuring(loaded, job.general_test)}
    before = {name: test.measure(loaded) for name, test in tests.items()}
    runs: list[Run] = []
    made: dict[Way, LoadedModel] = {}
    for way in job.ways:
        for seed in job.seeds:
            folder = job.work / f"done-{way}-{seed}" if job.work else None
            if folder is not None and (folder / RUN).is_file():
                run, model = json.loads((folder / RUN).read_text(encoding="utf-8")), None
                if seed == job.seeds[0]:
                    model = load_model(folder / MODEL, device=str(loaded.model.device))
            else:
                run, model = _one(adapter, job, way, seed, tests, before)
                if folder is not None:
                    _keep(folder, run, model if seed == job.seeds[0] else None)
            if model is not None and seed == job.seeds[0]:
                made[way] = model
            runs.append(run)
            done(run)
    shown = "chrf" if all("chrf" in measured.figures for measured in before.values()) else "loss"
    return Outcome(made, _report(loaded, job, before, runs, shown))


def _one(
    adapter: Adapter, job: Job, way: Way, seed: int, tests: dict[str, Measuring], before: dict[str, Measured]
) -> tuple[Run, LoadedModel]:
    adapted = adapter.adapt(way, seed)
    run: Run = {"way": way, "seed": seed, "settings": job.manner.document(way, seed), "trained": adapted.trained}
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
    part = folder / f"{RUN}.part"
    part.write_text(json.dumps(run, ensure_ascii=False), encoding="utf-8")
    part.replace(folder / RUN)


def _check_ways(job: Job) -> None:
    unknown = [way for way in job.ways if way not in WAYS]
    if unknown or not job.ways:
        raise BadInput(f"there is no way {', '.join(unknown)!r}", hint=f"one of {', '.join(WAYS)}, or all")


def _check_parallel(loaded: LoadedModel, job: Job) -> None:
    for corpus in (job.texts.domain, job.texts.domain_dev, job.domain_test):
        if loaded.family == "encoder-decoder" and not corpus.parallel:
            raise CorpusError(
                f"{corpus.name}: it has no target side for {loaded.name} to learn",
                hint="give parallel text, such as parallel:FILE?source=COLUMN&target=COLUMN",
            )


def _check_work(loaded: LoadedModel, job: Job) -> None:
    """Makes the work folder, or refuses one of another job."""
    job.manner.check()
    if job.work is None:
        return
    identity = {
        "model": loaded.fingerprint,
        "texts": {role: text["digest"] for role, text in job.corpora.items()},
        "settings": {way: job.manner.document(way, 0) for way in WAYS},
        "sets": [found.digest for found in job.sets],
    }
    file = job.work / JOB
    if not file.is_file():
        if job.work.exists() and (not job.work.is_dir() or any(job.work.iterdir())):
            raise BadInput(f"{job.work}: is not empty, and holds no adaptation", hint="choose another work folder")
        job.work.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(identity), encoding="utf-8")
    known = json.loads(file.read_text(encoding="utf-8"))
    other = [name for name, value in identity.items() if known.get(name) != json.loads(json.dumps(value))]
    if other:
        raise BadInput(
            f"{job.work}: holds an adaptation with other {' and other '.join(other)}",
            hint="remove the folder to begin anew, or repeat the command as it was to go on",
        )


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
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
