"""The registry of discovery methods: each registers itself, and is looked up by its name on the command line."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from neurodial.control.errors import BadInput, choices
from neurodial.interpret.methods.contracts import CausalMethod, ExplanationMethod, Method, Properties, RankingMethod
from neurodial.interpret.methods.names import MODULES

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


def causal_methods() -> dict[str, type[CausalMethod]]:
    """The registered methods that change neurons and watch a score, by slug."""
    return {slug: method for slug, method in all_methods().items() if issubclass(method, CausalMethod)}


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
        raise BadInput(f"there is no method {slug!r} here", hint=choices(slug, known), param="method")
    return known[slug]().set_params(**params)


def explanation_methods() -> dict[str, type[ExplanationMethod]]:
    """The registered methods that explain neurons, by slug."""
    return {slug: method for slug, method in all_methods().items() if issubclass(method, ExplanationMethod)}


def make_explanation_method(slug: str, **params: Any) -> ExplanationMethod:
    """An explanation method with its settings.

    Raises:
        BadInput: for an unknown slug or parameter.
    """
    return make(slug, explanation_methods(), params)
