"""The contracts that discovery methods keep, one for each kind of method.

A method is one class in one file of `interpret.methods`, decorated with `registry.register`. Its constructor only
stores, `fit` validates and returns the method, and what it learns ends in an underscore.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput, choices
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.methods.explanations import Explanation
from neurodial.interpret.methods.observations import Observations
from neurodial.interpret.methods.responding import NeuronModel
from neurodial.interpret.tasks.corpus_tasks import CorpusTask
from neurodial.interpret.tasks.tasks import Batch

Array = np.ndarray[Any, Any]
MIN_ROWS = 4
CHECKED = 64  # rows at a time, which stay in the cache
EQUAL = 1e-9  # of the largest score: what rounding leaves


@dataclass(frozen=True)
class Properties:
    """A method's row in the survey's table.

    Attributes:
        scope: whether it explains one input, the whole model, or both.
        direction: what goes in and what comes out, such as `concept → neurons`.
        scalability: low, medium or high.
        human: whether a human has to look at its results.
        supervision: whether it needs labels.
        causal: whether it intervenes on the model.
        source: the paper.
    """

    scope: Literal["local", "global", "both"]
    direction: str
    scalability: Literal["low", "medium", "high"]
    human: bool
    supervision: bool
    causal: bool
    source: str


class Method(ABC):
    """What every discovery method is: a name, a row in the survey's table, and settings that the constructor stores.

    Attributes:
        slug: its name on the command line.
        properties: its row in the survey's table.
    """

    slug: ClassVar[str]
    properties: ClassVar[Properties]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments and their values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Changes constructor arguments.

        Raises:
            BadInput: for one that the method has not.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise BadInput(f"{self.slug} has no parameter {name!r}", hint=choices(name, known, said="it has:"))
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({settings})"


class RankingMethod(Method):
    """A method that ranks neurons for a concept.

    Attributes:
        paired: whether it compares the sentences of minimal pairs; it then reads `groups`, and needs such a corpus.
        sketched: whether quantile sketches are to be gathered for it, for where there are more rows than are kept.
        streamed: whether it is fitted on statistics, which takes no longer for more rows.
        classes_: (labels,) the labels seen by `fit`, sorted.
        scores_: (neurons,) signed scores; positive means larger for the last label.
        ranking_: (neurons,) numbers of the neurons, best first, equal scores in the order of the neurons.
        num_selected_: how many neurons it selected, where it selects some and ranks the rest by something else.
    """

    paired: ClassVar[bool] = False
    sketched: ClassVar[bool] = False
    streamed: ClassVar[bool] = False

    classes_: Array
    scores_: Array
    ranking_: Array
    num_selected_: int | None = None

    @abstractmethod
    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "RankingMethod":
        """Ranks the neurons.

        Args:
            X: (rows, neurons) activations.
            y: (rows,) labels.
            groups: (rows,) rows of one group are the same token under different labels; only methods that need pairs
                look at it.

        Raises:
            BadInput: for shapes that do not fit, NaN, fewer than two labels or too few rows.
        """

    def fit_from(self, data: Gathered, sites: Sequence[Site]) -> "RankingMethod":
        """Ranks the neurons of sites of one stack by what a pass over a corpus gathered: by its rows, unless redefined.

        Args:
            data: statistics and rows.
            sites: whose neurons are ranked together; they follow each other in `scores_`.

        Raises:
            BadInput: as `fit` does.
            CorpusError: if what the method reads was not gathered.
        """
        rows = data.training_rows(sites[0].stack)
        return self.fit(rows.matrix(sites), rows.labels)

    def refitted(self, X: Array, y: Array, couples: Array) -> Array:
        """(neurons,) sizes of the scores of a copy that is fitted on other rows; this method stays as it is.

        Args:
            X: (rows, neurons) activations.
            y: (rows,) labels.
            couples: (rows,) groups, which only a paired method is told.

        Raises:
            BadInput: as `fit` does.
        """
        made = type(self)().set_params(**self.get_params())
        made.fit(X, y, couples if self.paired else None)
        sizes: Array = np.abs(made.scores_)
        return sizes

    def _rank(self, scores: Array) -> None:
        self.scores_ = np.asarray(scores, dtype=np.float64)
        self.ranking_ = best_first(self.scores_)


class CausalMethod(Method):
    """A method that ranks neurons by what changing them does to a task's score; it needs the model itself.

    Attributes:
        sites_: the sites, in the order in which their neurons are ranked.
        scores_: (neurons,) signed: positive where the neuron supports the score. The sites' neurons follow each other.
        ranking_: (neurons,) numbers into `scores_`, largest magnitude first.
    """

    sites_: tuple[Site, ...]
    scores_: Array
    ranking_: Array

    @abstractmethod
    def fit(self, loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site]) -> "CausalMethod":
        """Ranks the neurons of sites.

        Args:
            loaded: the model.
            task: batches with their score (`interpret.tasks.tasks`).
            sites: whose neurons are ranked.

        Raises:
            AddressError: if the model has no such site.
            BadInput: for an empty task, no sites, or scores that are not numbers.
        """

    def default_patterns(self, loaded: LoadedModel) -> tuple[str, ...]:
        """Sites to rank where none are named; empty for the model's default site."""
        return ()

    def report(self, loaded: LoadedModel, task: CorpusTask) -> dict[str, Any]:
        """What the fitted method says of itself beside its ranking, as JSON values."""
        return {}

    def by_site(self) -> dict[Site, Array]:
        """The scores, site by site."""
        return dict(zip(self.sites_, np.split(self.scores_, np.cumsum(self._widths)[:-1]), strict=True))

    def top(self, count: int) -> list[tuple[Site, int]]:
        """The best neurons: site and place in it."""
        starts = np.cumsum([0, *self._widths])
        found = np.searchsorted(starts, self.ranking_[:count], side="right") - 1
        return [(self.sites_[s], int(n - starts[s])) for s, n in zip(found, self.ranking_[:count], strict=True)]

    def _check(self, loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site]) -> tuple[Site, ...]:
        if not task or not sites:
            raise BadInput("a causal method needs a task with examples and at least one site")
        for site in sites:
            loaded.sites.info(site)
        return tuple(dict.fromkeys(sites))

    def _rank_flat(self, loaded: LoadedModel, sites: Sequence[Site], scores: Array) -> None:
        """Ranks by (neurons,) scores of the sites' neurons, one site after the other."""
        widths = np.cumsum([loaded.sites.info(site).width for site in sites])[:-1]
        self._rank_sites(dict(zip(sites, np.split(scores, widths), strict=True)))

    def _rank_sites(self, scores: Mapping[Site, Array]) -> None:
        self.sites_ = tuple(scores)
        self._widths = [len(part) for part in scores.values()]
        self.scores_ = np.concatenate([np.asarray(part, dtype=np.float64) for part in scores.values()])
        if not np.isfinite(self.scores_).all():
            raise BadInput("the model's scores on this task hold NaN or infinity")
        self.ranking_ = best_first(self.scores_)


class GroupMethod(Method):
    """A method that groups neurons by what they do together.

    Attributes:
        labels_: (neurons,) number of each neuron's group, −1 for none; groups are numbered by their first neuron.
        representatives_: (groups,) the neuron that stands for each group.
    """

    labels_: Array
    representatives_: Array

    @abstractmethod
    def fit(self, X: Array) -> "GroupMethod":
        """Groups the neurons.

        Args:
            X: (rows, neurons) activations.

        Raises:
            BadInput: for shapes that do not fit, NaN or too few rows.
        """


class ExplanationMethod(Method):
    """A method that says what neurons answer to.

    Attributes:
        needs_model: whether it asks the model about text of its own making, and cannot do without.
        uses_model: whether it says more with the model.
        explanations_: one per neuron, in the order of the observations' neurons.
    """

    needs_model: ClassVar[bool] = False
    uses_model: ClassVar[bool] = False

    explanations_: tuple[Explanation, ...]

    @abstractmethod
    def fit(self, X: Observations, model: NeuronModel | None = None) -> "ExplanationMethod":
        """Explains the neurons.

        Args:
            X: texts with the neurons' activations, read once.
            model: the model that the neurons belong to.

        Raises:
            BadInput: for shapes that do not fit, NaN, too few words, or a model that is missing.
        """

    def _model(self, model: NeuronModel | None) -> NeuronModel:
        if model is None:
            raise BadInput(f"{self.slug} asks the model about text of its own making: give it the model")
        return model


def best_first(scores: Array) -> Array:
    """(neurons,) numbers of the neurons by falling size of their scores, equal ones in the order of the neurons."""
    order: Array = np.argsort(-np.abs(scores), kind="stable")
    return order


def check_told_apart(scores: Array, method: str) -> None:
    """Refuses a ranking that prefers no neuron: its first ones would be the first of the site.

    Args:
        scores: (neurons,) of all neurons that were ranked together.
        method: that ranked them.

    Raises:
        BadInput: if all are of one size.
    """
    sizes = np.abs(scores)
    if len(sizes) > 1 and np.ptp(sizes) <= EQUAL * sizes.max():
        raise BadInput(
            f"{method}: all {len(sizes):,} neurons have the same score ({sizes[0]:.3g}), and none can be preferred",
            hint="choose other sites, another method, or a corpus that says more of the concept",
        )


def check_activations(X: Array, dtype: type[np.floating[Any]] = np.float64) -> Array:
    """Validates rows without labels; returns them in the given precision.

    Raises:
        BadInput: for another shape than (rows, neurons), NaN or too few rows.
    """
    rows = np.asarray(X, dtype=dtype)
    if rows.ndim != 2:
        raise BadInput(f"activations of shape {rows.shape}: (rows, neurons) are needed")
    if len(rows) < MIN_ROWS:
        raise BadInput(f"{len(rows)} rows are too few to rank neurons, at least {MIN_ROWS} are needed")
    if not all(np.isfinite(rows[start : start + CHECKED]).all() for start in range(0, len(rows), CHECKED)):
        raise BadInput("the activations hold NaN or infinity")
    return rows


def check_rows(X: Array, y: Array, dtype: type[np.floating[Any]] = np.float64) -> tuple[Array, Array, Array]:
    """Validates rows and labels.

    Returns:
        X as (rows, neurons) in the given precision, the sorted labels, and y as numbers of these labels.

    Raises:
        BadInput: for shapes that do not fit, NaN, fewer than two labels or too few rows.
    """
    labels = np.asarray(y)
    if np.ndim(X) != 2 or labels.shape != np.shape(X)[:1]:
        raise BadInput(f"rows of shape {np.shape(X)} and labels of shape {labels.shape} do not belong together")
    rows = check_activations(X, dtype)
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(f"all rows have the label {classes[0]!r}: a ranking needs at least two labels")
    return rows, classes, numbers
