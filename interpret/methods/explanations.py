"""Explanations: what a neuron answers to, as every method from neurons to concepts writes it down."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.reports.page import page, settings_line

NOTHING = "nothing above chance"


@dataclass(frozen=True)
class Context:
    """A stretch of text with one neuron's activations.

    Attributes:
        text: the characters.
        spans: (start, end) of each word in `text`.
        values: the neuron's activation at each word.
        score: what puts this context before others.
        peak: number of the word that it is about, or None.
        omission: for each word how much the representation changes without it; empty where that was not measured.
        note: what is special about it, for people.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    values: tuple[float, ...]
    score: float
    peak: int | None = None
    omission: tuple[float, ...] = ()
    note: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The words."""
        return tuple(self.text[start:end] for start, end in self.spans)

    @property
    def pieces(self) -> tuple[tuple[str, str], ...]:
        """Each word with what stands between it and the word before."""
        ends = [0, *(end for _, end in self.spans)]
        return tuple((self.text[ends[i] : start], self.text[start:end]) for i, (start, end) in enumerate(self.spans))

    @property
    def rest(self) -> str:
        """What follows the last word."""
        return self.text[self.spans[-1][1] if self.spans else 0 :]


@dataclass(frozen=True)
class Concept:
    """Something that a neuron may answer to.

    Attributes:
        name: such as a word or a formula.
        score: by the explanation's measure; negative where the neuron goes down.
        support: words or sentences that the score rests on.
        details: more figures by name.
    """

    name: str
    score: float
    support: int | None = None
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """What one neuron answers to.

    Attributes:
        neuron: its address.
        method: slug of the method.
        label: the explanation in a few words, empty where nothing was found above chance.
        measure: what the scores are.
        score: of the label; 0 without one.
        concepts: best first.
        contexts: best first.
        statistics: more figures by name.
    """

    neuron: str
    method: str
    label: str
    measure: str
    score: float
    concepts: tuple[Concept, ...] = ()
    contexts: tuple[Context, ...] = ()
    statistics: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values: figures that do not exist (NaN, infinity) are null."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def to_html(self) -> str:
        """A self-contained page with this explanation."""
        return _page(f"{self.neuron}: {self.method}", (self,))

    @property
    def details(self) -> tuple[str, ...]:
        """Names of the concepts' further figures."""
        return tuple(dict.fromkeys(name for concept in self.concepts for name in concept.details))

    @property
    def scale(self) -> float:
        """The largest activation of the contexts, which gets the full colour."""
        return max((abs(value) for c in self.contexts for value in c.values), default=0.0)


@dataclass(frozen=True)
class ExplanationReport:
    """The explanations of some neurons by one method.

    Attributes:
        method: slug of the method.
        params: its settings.
        model: name of the model.
        fingerprint: of the model, or empty.
        corpus: name of the corpus, or empty.
        explanations: in the order of the neurons.
        layout: `cards` shows one neuron after the other, `side by side` all of them over the same texts.
        left_out: what of the corpus has no activations.
    """

    method: str
    params: Mapping[str, Any]
    model: str
    fingerprint: str
    corpus: str
    explanations: tuple[Explanation, ...]
    layout: Literal["cards", "side by side"] = "cards"
    left_out: LeftOut = field(default_factory=LeftOut)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "kind": "explanations",
            "method": {"slug": self.method, "params": _plain(dict(self.params))},
            "model": {"name": self.model, "fingerprint": self.fingerprint},
            "corpus": self.corpus,
            "left_out": self.left_out.report(),
            "explanations": [one.to_dict() for one in self.explanations],
        }

    def to_html(self) -> str:
        """A self-contained page."""
        return _page(
            f"{self.method}: {self.model}",
            self.explanations,
            [f"{self.model} over {self.corpus}" if self.corpus else self.model],
            beside=self.layout == "side by side" and len(self.explanations) > 1,
            made={
                "Model": f"{self.model} {self.fingerprint}",
                "Corpus": self.corpus,
                "Left out": str(self.left_out),
                "Settings": settings_line(self.params),
            },
        )


def _page(title: str, explanations: tuple[Explanation, ...], lines: Sequence[str] = (), **values: Any) -> str:
    return page("explanations", title, lines, explanations=explanations, nothing=NOTHING, **{"beside": False} | values)


def _plain(value: Any) -> Any:
    """JSON values only."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else json.loads(json.dumps(value))
