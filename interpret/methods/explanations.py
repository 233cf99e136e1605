"""Explanations: what a neuron answers to, as every method from neurons to concepts writes it down."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

import numpy as np

from neurodial.interpret.reports.html import bar, heat_text, legend, page, table

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
        return page(f"{self.neuron}: {self.method}", [self.to_section()])

    def to_section(self) -> str:
        """The part of a page that shows this explanation."""
        label = f"<b>{escape(self.label)}</b>" if self.label else f'<span class="nothing">{NOTHING}</span>'
        scored = f' <span class="quiet">{escape(self.measure)} {figure(self.score)}</span>' if self.label else ""
        parts = [f"<h2><code>{escape(self.neuron)}</code></h2><p>{label}{scored}</p>"]
        if self.concepts:
            parts += [_concept_table(self.concepts, self.measure)]
        if self.contexts:
            scale = self.scale
            rows = [[f"{c.score:+.3f}", context_html(c, scale), escape(c.note)] for c in self.contexts]
            noted = any(c.note for c in self.contexts)
            cells = rows if noted else [row[:2] for row in rows]
            parts += ["<h3>Contexts</h3>", table(["score", "text", ""][: 3 if noted else 2], cells, numbers=[0])]
            parts += [legend(scale)]
        if self.statistics:
            shown = (f"{escape(name)} {figure(value)}" for name, value in self.statistics.items())
            parts += [f'<p class="quiet">{" · ".join(shown)}</p>']
        return f"<section>{''.join(parts)}</section>"

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
    """

    method: str
    params: Mapping[str, Any]
    model: str
    fingerprint: str
    corpus: str
    explanations: tuple[Explanation, ...]
    layout: Literal["cards", "side by side"] = "cards"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "kind": "explanations",
            "method": {"slug": self.method, "params": _plain(dict(self.params))},
            "model": {"name": self.model, "fingerprint": self.fingerprint},
            "corpus": self.corpus,
            "explanations": [one.to_dict() for one in self.explanations],
        }

    def to_html(self) -> str:
        """A self-contained page."""
        over = f" over {escape(self.corpus)}" if self.corpus else ""
        head = f'<h1>{escape(self.method)}</h1><p class="quiet">{escape(self.model)}{over}</p>'
        side = self.layout == "side by side" and len(self.explanations) > 1
        body = [_side_by_side(self.explanations)] if side else [one.to_section() for one in self.explanations]
        return page(f"{self.method}: {self.model}", [head, *body])


def context_html(context: Context, scale: float) -> str:
    """A context in colours, the omission scores in the notes of its words."""
    notes = [f"omission {value:.3f}" for value in context.omission]
    return heat_text(context.text, context.spans, context.values, scale, peak=context.peak, notes=notes)


def _concept_table(concepts: tuple[Concept, ...], measure: str) -> str:
    longest = max(abs(c.score) for c in concepts)
    extra = list(dict.fromkeys(name for c in concepts for name in c.details))
    supported = any(c.support is not None for c in concepts)
    header = ["concept", escape(measure), ""] + (["support"] if supported else []) + [escape(name) for name in extra]
    rows = []
    for c in concepts:
        support = [f"{c.support:,}" if c.support is not None else ""] if supported else []
        details = [figure(c.details[name]) if name in c.details else "" for name in extra]
        rows.append([escape(c.name), figure(c.score), bar(c.score, longest), *support, *details])
    return table(header, rows, numbers=[1, *range(3, len(header))])


def _side_by_side(explanations: tuple[Explanation, ...]) -> str:
    """One column a neuron, one row a text; a neuron has the same colours in every row."""
    header = [f"<code>{escape(one.neuron)}</code>" for one in explanations]
    labels = [escape(one.label) or f'<span class="nothing">{NOTHING}</span>' for one in explanations]
    figures = [
        "<br>".join(f"{escape(name)} {figure(value)}" for name, value in one.statistics.items()) for one in explanations
    ]
    scales = [legend(one.scale) for one in explanations]
    texts = [
        [context_html(context, one.scale) for one, context in zip(explanations, row, strict=True)]
        for row in zip(*(one.contexts for one in explanations), strict=True)
    ]
    quiet = [f'<span class="quiet">{cell}</span>' for cell in figures]
    named = [labels] if any(one.label for one in explanations) else []
    return f"<section>{table(header, [*named, *texts, scales, quiet])}</section>"


def figure(value: float) -> str:
    """A number for people."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.3g}"


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
