"""Text in the colours of a neuron (Karpathy et al. 2015, “Visualizing and Understanding Recurrent Networks”)."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from neurodial.control.errors import BadInput
from neurodial.interpret.methods.contracts import ExplanationMethod, Properties
from neurodial.interpret.methods.explanations import NOTHING, Concept, Context, Explanation
from neurodial.interpret.methods.observations import Observation, Observations, WordSample, cut_context
from neurodial.interpret.methods.ranking.expert_units import detect
from neurodial.interpret.methods.registry import register
from neurodial.interpret.methods.responding import NeuronModel
from neurodial.interpret.reports.page import drawn

Array = np.ndarray[Any, Any]
SAMPLE = 20_000  # words that the statistics rest on
CHUNK = 64  # neurons that are tried at a time
MIN_MARKED = 10  # words inside quotes (or parentheses) without which a neuron is not tried on them
SURE = 0.5  # correlation, or F1 above chance as a share of what was possible, that gives a neuron a name
NEGATIVE, POSITIVE = (178, 24, 43), (33, 102, 172)  # red below zero, blue above
OPENING, CLOSING = {"(": "parentheses", "[": "parentheses", "“": "quotes", "«": "quotes"}, {")", "]", "”", "»"}


@register
class Visualization(ExplanationMethod):
    """Shows texts in the colours of neurons, red below zero and blue above, several neurons side by side.

    Over all texts it counts how often a neuron is saturated: with r = (a − min a) / (max a − min a), the share of words
    with r < 0.1 and with r > 0.9, Karpathy's left and right saturation for neurons of any range, and the share with
    a = 0 exactly. It tries every neuron on the states for which the paper found cells: the place in the text
    (Pearson's ρ), and being inside quotes or parentheses (the best F1 of one threshold, as Bau et al. 2019 measure
    it, rescaled so that 0 is answering *yes* everywhere). A neuron is named where one of them is above 0.5.

    Args:
        texts: how many are shown.
        longest: words of a text that are shown.

    Attributes:
        saturation_: (neurons, 3) shares of words low, high and exactly zero.
    """

    slug = "visualization"
    properties = Properties(
        "local", "neuron → concept", "low", human=True, supervision=False, causal=False, source="Karpathy et al. 2015"
    )

    def __init__(self, texts: int = 8, longest: int = 60) -> None:
        self.texts = texts
        self.longest = longest

    def fit(self, X: Observations, model: NeuronModel | None = None) -> "Visualization":
        """Keeps the first texts and counts over all; see `ExplanationMethod.fit`."""
        for name in ("texts", "longest"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1", param=name)
        shown: list[Observation] = []
        sample = WordSample(SAMPLE)
        for one in X.checked():
            if len(shown) < self.texts:
                shown.append(one)
            sample.add(one.values, _states(one.forms))
        values, states = sample.values, sample.notes
        self.saturation_ = saturation(values)
        tried = _tried(values, states)
        self.explanations_ = tuple(
            self._explain(name, column, shown, [(k, s[column]) for k, s in tried])
            for column, name in enumerate(X.neurons)
        )
        return self

    def _explain(self, name: str, column: int, shown: list[Observation], tried: list[tuple[str, float]]) -> Explanation:
        concepts = sorted((Concept(state, round(s, 4)) for state, s in tried), key=lambda c: -abs(c.score))
        found = concepts[0] if concepts and abs(concepts[0].score) > SURE else None
        low, high, zero = self.saturation_[column].tolist()
        return Explanation(
            name, self.slug, found.name if found else "", "agreement", found.score if found else 0.0, tuple(concepts),
            tuple(_context(one, column, self.longest) for one in shown),
            {"saturated low": low, "saturated high": high, "exactly zero": zero},
        )  # fmt: skip


def saturation(values: Array) -> Array:
    """(neurons, 3) shares of (words, neurons) activations that are low, high and exactly zero."""
    least, most = values.min(axis=0), values.max(axis=0)
    place = (values - least) / np.maximum(most - least, 1e-30)
    moves = most > least  # a neuron that never changes is not saturated but dead
    return np.stack(
        [(place < 0.1).mean(axis=0) * moves, (place > 0.9).mean(axis=0) * moves, (values == 0).mean(axis=0)], 1
    )


def _states(words: list[str]) -> list[tuple[int, bool, bool]]:
    """Of each word its place, and whether it is inside quotes or parentheses, the marks included."""
    made, depth, quoted = [], {"quotes": 0, "parentheses": 0}, False
    for place, word in enumerate(words):
        closes = word in CLOSING or (word == '"' and quoted)
        if word in OPENING:
            depth[OPENING[word]] += 1
        quoted ^= word == '"'
        made.append((place, quoted or (closes and word in '"”»') or depth["quotes"] > 0, depth["parentheses"] > 0))
        if word in CLOSING:
            kind = "quotes" if word in "”»" else "parentheses"
            depth[kind] = max(depth[kind] - 1, 0)
    return made


def _tried(values: Array, states: list[tuple[int, bool, bool]]) -> list[tuple[str, Array]]:
    """How far each neuron agrees with each state that occurs."""
    marks = np.array(states, dtype=np.float64)
    found = []
    if marks[:, 0].std() > 0:
        found.append(("position in the text", _correlation(values, marks[:, 0])))
    for state, name in ((1, "inside quotes"), (2, "inside parentheses")):
        inside = marks[:, state] > 0
        if min(inside.sum(), (~inside).sum()) >= MIN_MARKED:
            parts = [detect(values[:, i : i + CHUNK], inside) for i in range(0, values.shape[1], CHUNK)]
            _, sign, _, f1, _ = (np.concatenate(column) for column in zip(*parts, strict=True))
            chance = 2 * inside.mean() / (1 + inside.mean())
            found.append((name, sign * np.maximum(f1 - chance, 0) / (1 - chance)))
    return found


def _correlation(values: Array, target: Array) -> Array:
    centred, other = values - values.mean(axis=0), target - target.mean()
    size = np.sqrt((centred**2).sum(axis=0) * (other**2).sum())
    rho: Array = np.where(size > 0, other @ centred / np.where(size > 0, size, 1.0), 0.0)
    return rho


def _context(one: Observation, column: int, longest: int) -> Context:
    words, values = one.words[:longest], one.values[:longest, column]
    text, _ = cut_context(one.sentence, int(words[0]), int(words[-1]))
    start = one.sentence.words[int(words[0])][0]
    spans = tuple((a - start, b - start) for a, b in (one.sentence.words[w] for w in words.tolist()))
    numbers = tuple(float(v) for v in values)
    return Context(text, spans, numbers, max(numbers, key=abs))


def terminal_text(context: Context, scale: float) -> Text:
    """A context in colours for a terminal."""
    made = Text()
    for number, ((before, word), value) in enumerate(zip(context.pieces, context.values, strict=True)):
        ground, ink = _colours(value, scale)
        made.append(before)
        made.append(word, style=f"{ink} on {ground}{' underline' if number == context.peak else ''}")
    made.append(context.rest)
    return made


def side_by_side(explanations: Iterable[Explanation]) -> Table:
    """Neurons side by side for a terminal: one column each, one row a text."""
    many = list(explanations)
    made = Table(*(one.neuron for one in many), box=None, show_lines=True, padding=(0, 2, 1, 0), header_style="bold")
    if any(one.label for one in many):
        made.add_row(*(Text(one.label or NOTHING, style="bold" if one.label else "dim") for one in many))
    for row in zip(*(one.contexts for one in many), strict=True):
        made.add_row(*(terminal_text(c, one.scale) for one, c in zip(many, row, strict=True)))
    made.add_row(*(Text("\n".join(f"{k} {v:.1%}" for k, v in one.statistics.items()), style="dim") for one in many))
    return made


def svg(explanations: Iterable[Explanation], *, columns: int = 70) -> str:
    """The texts in the colours of neurons as one SVG image, the neurons below one another under each text.

    Args:
        explanations: of the same texts.
        columns: characters of a line.
    """
    many = list(explanations)
    blocks, y = [], 34
    for number in range(len(many[0].contexts) if many else 0):
        for one in many:
            words = list(_placed(one.contexts[number], one.scale, columns))
            blocks.append((one.neuron, y, words))
            y += 24 * (words[-1][1] + 1 if words else 1) + 20
        y += 10
    return drawn("texts.svg", blocks=blocks, width=24 + 8 * columns, height=y - 20)


def _placed(context: Context, scale: float, columns: int) -> Iterator[tuple[str, int, int, str, str]]:
    """Each word with its line, its column, and the colours behind it and of its letters."""
    line = column = 0
    for (before, word), value in zip(context.pieces, context.values, strict=True):
        column += len(before) if column else 0
        if column and column + len(word) > columns:
            line, column = line + 1, 0
        yield word, line, column, *_colours(value, scale)
        column += len(word)


def _colours(value: float, scale: float) -> tuple[str, str]:
    """Colours of a value, white at zero, full red at −scale and full blue at +scale, and of letters on top of it."""
    strength = min(abs(value) / scale, 1.0) if scale > 0 else 0.0
    ground = (round(255 + (c - 255) * strength) for c in (POSITIVE if value >= 0 else NEGATIVE))
    return "#{:02x}{:02x}{:02x}".format(*ground), "#ffffff" if strength > 0.6 else "#1b1f24"
