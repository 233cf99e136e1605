"""Rankings by what changing neurons does to a task that a corpus sets: the causal side of `discover`."""

from typing import Any, Literal

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.methods.causal.knowledge_attribution import KnowledgeAttribution, fact_effects
from neurodial.interpret.methods.contracts import CausalMethod
from neurodial.interpret.tasks.corpus_tasks import CorpusTask, corpus_task
from neurodial.interpret.tasks.interventions import plain_scores
from neurodial.interpret.tasks.tasks import Batch

Array = np.ndarray[Any, Any]
FROM_CORPUS = ("corrupted", "facts")  # settings of methods that the corpus gives
MEASURED_FACTS = 20  # facts whose neurons are suppressed and enhanced


def default_patterns(loaded: LoadedModel, method: object) -> tuple[str, ...]:
    """Sites to rank where none are named: knowledge neurons are those of the FFNs; others take the usual site."""
    return (f"{loaded.sites.stacks[-1]}.*.ffn",) if isinstance(method, KnowledgeAttribution) else ()


def _check_settings(method: CausalMethod) -> None:
    """Refuses settings that the corpus gives."""
    fresh = type(method)().get_params()
    for name in FROM_CORPUS:
        if name in fresh and method.get_params()[name] != fresh[name]:
            raise BadInput(f"{method.slug}: {name} comes from the corpus and cannot be set", param=name)


def rank_causally(
    method: CausalMethod,
    loaded: LoadedModel,
    corpus: Corpus,
    sites: tuple[Site, ...],
    *,
    examples: int = 50,
    seed: int = 0,
    decoder: Literal["reference", "own"] = "reference",
) -> tuple[dict[Site, Array], dict[str, Any]]:
    """Ranks the neurons of sites by a causal method on a corpus's pairs or facts.

    Args:
        method: with its settings; it is not changed.
        loaded: the model.
        corpus: see `interpret.tasks.corpus_tasks`.
        sites: whose neurons are ranked.
        examples: pairs or facts of the training part.
        seed: of their choice.
        decoder: targets of an encoder–decoder: the corpus's where it has any (`reference`), or the model's own output.

    Returns:
        Site → (width,) scores, and the task's score and rows, how the model does without any change, and what the
        method says of itself.

    Raises:
        CorpusError: if the corpus asks nothing of the model.
        BadInput: for settings that the corpus gives, and scores that are not numbers.
    """
    _check_settings(method)
    params = method.get_params()
    own: Literal["own"] | None = "own" if decoder == "own" else None
    task = corpus_task(loaded, corpus, examples=examples, seed=seed, decoder=own, twins="corrupted" in params)
    given: dict[str, Any] = {"corrupted": task.corrupted, "facts": task.facts or None}
    made = type(method)(**params | {name: given[name] for name in FROM_CORPUS if name in params})
    made.fit(loaded, task.clean, sites)
    return made.by_site(), _task_report(loaded, task) | _method_report(made, loaded, task)


def _task_report(loaded: LoadedModel, task: CorpusTask) -> dict[str, Any]:
    scores = torch.cat([plain_scores(loaded, batch) for batch in task.clean])
    report: dict[str, Any] = {"score": task.score, "rows": task.rows, "mean": round(float(scores.mean()), 4)}
    if task.clean[0].foils is not None:
        report["favoured"] = round(float((scores > 0).float().mean()), 4)
    if task.skipped:
        report["skipped"] = task.skipped
    return report


def _method_report(made: CausalMethod, loaded: LoadedModel, task: CorpusTask) -> dict[str, Any]:
    report: dict[str, Any] = {}
    if (agreement := getattr(made, "agreement_", None)) is not None:
        report["screening_correlation"] = round(agreement, 4)
    if (gap := getattr(made, "gap_", None)) is not None:
        report["gap"] = round(gap, 4)
    if isinstance(made, KnowledgeAttribution) and task.facts:
        report["facts"] = _fact_report(made, loaded, task)
    return report


def _fact_report(made: KnowledgeAttribution, loaded: LoadedModel, task: CorpusTask) -> dict[str, Any]:
    """What suppressing and enhancing a fact's refined neurons does to it, and to the other facts, on average."""
    rows = [batch.row(n) for batch in task.clean for n in range(batch.rows)]
    by_fact: dict[int, list[Batch]] = {}
    for fact, row in zip(task.facts, rows, strict=True):
        by_fact.setdefault(fact, []).append(row)
    effects: dict[str, list[float]] = {}
    for fact in list(by_fact)[:MEASURED_FACTS]:
        if not len(made.neurons_[fact]):
            continue
        unit = made.units(loaded, fact)
        others = [rows_of[0] for other, rows_of in by_fact.items() if other != fact][:MEASURED_FACTS]
        for where, asked in (("", by_fact[fact]), ("_others", others)):
            for name, change in fact_effects(loaded, asked, unit).items() if asked else ():
                effects.setdefault(f"{name}{where}", []).append(change)
    sizes = [len(neurons) for neurons in made.neurons_.values()]
    means = {name: round(sum(values) / len(values), 4) for name, values in effects.items()}
    return {
        "facts": len(sizes),
        "neurons_per_fact": round(sum(sizes) / len(sizes), 2),
        "shared": round(made.shared_, 2),
        **means,
    }
