"""Rankings by what changing neurons does to a task that a corpus sets: the causal side of `discover`."""

from typing import Any, Literal

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.methods.contracts import CausalMethod, check_told_apart
from neurodial.interpret.tasks.corpus_tasks import CorpusTask, corpus_task
from neurodial.interpret.tasks.interventions import plain_scores

Array = np.ndarray[Any, Any]
FROM_CORPUS = ("corrupted", "facts")  # settings of methods that the corpus gives


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
        BadInput: for settings that the corpus gives, and scores that are not numbers or all equal.
    """
    _check_settings(method)
    params = method.get_params()
    own: Literal["own"] | None = "own" if decoder == "own" else None
    task = corpus_task(loaded, corpus, examples=examples, seed=seed, decoder=own, twins="corrupted" in params)
    given: dict[str, Any] = {"corrupted": task.corrupted, "facts": task.facts or None}
    made = type(method)(**params | {name: given[name] for name in FROM_CORPUS if name in params})
    made.fit(loaded, task.clean, sites)
    check_told_apart(made.scores_, method.slug)
    return made.by_site(), _task_report(loaded, task) | made.report(loaded, task)


def _task_report(loaded: LoadedModel, task: CorpusTask) -> dict[str, Any]:
    scores = torch.cat([plain_scores(loaded, batch) for batch in task.clean])
    report: dict[str, Any] = {"score": task.score, "rows": task.rows, "mean": round(float(scores.mean()), 4)}
    if task.clean[0].foils is not None:
        report["favoured"] = round(float((scores > 0).float().mean()), 4)
    if task.skipped:
        report["skipped"] = task.skipped
    return report
