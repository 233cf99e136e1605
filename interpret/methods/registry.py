"""The registry of discovery methods and the contract that each of them keeps.

A method is one class in one file of `interpret.methods`, decorated with `register`. Its constructor only stores, `fit`
validates and returns the method, and what it learns ends in an underscore.
"""

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.tasks.tasks import Batch

Array = np.ndarray[Any, Any]
MODULES = (  # of neurodial.interpret.methods
    "causal.ablation",
    "causal.activation_patching",
    "causal.attribution_patching",
    "causal.gradient_activation",
    "causal.knowledge_attribution",
    "causal.layer_conductance",
    "explanation.aligned_concepts",
    "explanation.compositional",
    "explanation.corpus_generation",
    "explanation.top_contexts",
    "explanation.visualization",
    "grouping.clustering",
    "grouping.multi_model",
    "grouping.nmf",
    "ranking.expert_units",
    "ranking.gaussian_probe",
    "ranking.linear_probe",
    "ranking.mean_difference",
    "ranking.probeless",
    "ranking.sparse_probing",
)
MIN_ROWS = 4
CHECKED = 64  # rows at a time, which stay in the cache


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
                raise BadInput(f"{self.slug} has no parameter {name!r}", hint=f"it has: {', '.join(known) or 'none'}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({settings})"


class RankingMethod(Method):
    """A method that ranks neurons for a concept.

    Attributes:
        streams: what it can be fitted on instead of rows: per-label moments (`labels`), differences of paired rows
            (`pairs`), per-label quantile sketches where there are more rows than are kept (`quantiles`), or none.
        classes_: (labels,) the labels seen by `fit`, sorted.
        scores_: (neurons,) signed scores; positive means larger for the last label.
        ranking_: (neurons,) numbers of the neurons, best first, equal scores in the order of the neurons.
    """

    streams: ClassVar[Literal["labels", "pairs", "quantiles"] | None] = None

    classes_: Array
    scores_: Array
    ranking_: Array

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

    def _rank(self, scores: Array, magnitude: Array | None = None) -> None:
        size = np.abs(scores if magnitude is None else magnitude)
        self.scores_ = np.asarray(scores, dtype=np.float64)
        self.ranking_ = np.lexsort((np.arange(len(size)), -size))


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

    def _rank_sites(self, scores: Mapping[Site, Array]) -> None:
        self.sites_ = tuple(scores)
        self._widths = [len(part) for part in scores.values()]
        self.scores_ = np.concatenate([np.asarray(part, dtype=np.float64) for part in scores.values()])
        if not np.isfinite(self.scores_).all():
            raise BadInput("the model's scores on this task hold NaN or infinity")
        self.ranking_ = np.lexsort((np.arange(len(self.scores_)), -np.abs(self.scores_)))


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


Kind = TypeVar("Kind", bound=type[Method])
Kept = TypeVar("Kept", bound=Method)
_METHODS: dict[str, type[Method]] = {}


def register(method: Kind) -> Kind:
    """Adds a method to the registry.

    Raises:
        ValueError: if the slug is taken or the contract is not kept.
    """
    slug = getattr(method, "slug", "")
    if not slug or slug != slug.lower() or not slug.replace("-", "").isalnum():
        raise ValueError(f"{method.__name__}: slug {slug!r} is not lower-case words joined by hyphens")
    if slug in _METHODS:
        raise ValueError(f"{method.__name__}: the slug {slug!r} belongs to {_METHODS[slug].__name__}")
    if not isinstance(getattr(method, "properties", None), Properties):
        raise ValueError(f"{method.__name__}: its properties in the survey's table are missing")
    if inspect.isabstract(method):
        raise ValueError(f"{method.__name__}: it has no fit")
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            raise ValueError(f"{method.__name__}: the parameter {name!r} has no default")
    _METHODS[slug] = method
    return method


def all_methods() -> dict[str, type[Method]]:
    """Every registered method by slug."""
    for module in MODULES:
        importlib.import_module(f"neurodial.interpret.methods.{module}")
    return dict(sorted(_METHODS.items()))


def methods() -> dict[str, type[RankingMethod]]:
    """The registered methods that rank neurons for a concept, by slug."""
    return {slug: method for slug, method in all_methods().items() if issubclass(method, RankingMethod)}


def group_methods() -> dict[str, type[GroupMethod]]:
    """The registered methods that group neurons, by slug."""
    return {slug: method for slug, method in all_methods().items() if issubclass(method, GroupMethod)}


def causal_methods() -> dict[str, type[CausalMethod]]:
    """The registered methods that change neurons and watch a score, by slug."""
    return {slug: method for slug, method in all_methods().items() if issubclass(method, CausalMethod)}


def make_method(slug: str, **params: Any) -> RankingMethod:
    """A ranking method with its settings.

    Raises:
        BadInput: for an unknown slug or parameter.
    """
    return make(slug, methods(), params)


def make_ranker(slug: str, **params: Any) -> RankingMethod | CausalMethod:
    """A method from a concept to its neurons with its settings: one that looks at activations, or at interventions.

    Raises:
        BadInput: for an unknown slug or parameter.
    """
    known: dict[str, type[RankingMethod | CausalMethod]] = {**methods(), **causal_methods()}
    return make(slug, dict(sorted(known.items())), params)


def make_grouping(slug: str, **params: Any) -> Method:
    """A method from neurons to neurons with its settings: one that groups a model's, or one that compares models.

    Raises:
        BadInput: for an unknown slug or parameter.
    """
    known = {s: m for s, m in all_methods().items() if m.properties.direction == "neurons → neurons"}
    return make(slug, known, params)


def make(slug: str, known: Mapping[str, type[Kept]], params: dict[str, Any]) -> Kept:
    """One of some known methods with its settings.

    Raises:
        BadInput: for an unknown slug or parameter.
    """
    if slug not in known:
        raise BadInput(f"there is no method {slug!r} here", hint=f"one of {', '.join(known)}", param="method")
    return known[slug]().set_params(**params)


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
