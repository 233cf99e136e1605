"""Pictures of groups of neurons as inline SVG: a dendrogram, sizes per site, a heat-map of factors, scores."""

import json
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import dendrogram

from neurodial.interpret.reports.html import NEGATIVE, POSITIVE, colour

Array = np.ndarray[Any, Any]
INK, QUIET, LINE = "#1b1f24", "#57606a", "#d8dee4"
BLUE, RED = ("rgb({},{},{})".format(*end) for end in (POSITIVE, NEGATIVE))
GREY = "#8c959f"
PALE = "#c6d7ea"


def dendrogram_svg(tree: Array, cut: float, names: Sequence[str], *, leaves: int = 48) -> str:
    """The top of a cluster tree.

    Args:
        tree: as SciPy writes it.
        cut: distance of the cut, drawn as a line; what is joined below it is blue.
        names: of the neurons.
        leaves: subtrees that are told apart; what is below is a triangle as high as its last join.
    """
    drawn = dendrogram(tree, truncate_mode="lastp", p=leaves, no_plot=True)
    size = len(tree) + 1
    joined = [float(tree[leaf - size, 2]) if leaf >= size else 0.0 for leaf in drawn["leaves"]]
    labels = [f"{ivl[1:-1]} neurons" if ivl.startswith("(") else names[int(ivl)] for ivl in drawn["ivl"]]
    step, left, top, height = 18.0, 46.0, 14.0, 260.0
    width = left + step * len(labels) + 20

    def y(distance: float) -> float:
        return top + height * (1 - distance)

    parts = [_axis(left, width - 10, y, (0.0, 0.25, 0.5, 0.75, 1.0), "1 − |ρ|")]
    for xs, ds in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        ends = [d if d > 0 else joined[round((x - 5) / 10)] for x, d in zip(xs, ds, strict=True)]
        points = " ".join(f"{left + x / 10 * step:.1f},{y(d):.1f}" for x, d in zip(xs, ends, strict=True))
        stroke = BLUE if max(ds) <= cut else GREY
        parts.append(f'<polyline points="{points}" fill="none" stroke="{stroke}" stroke-width="1.4"/>')
    for place, (label, distance) in enumerate(zip(labels, joined, strict=True)):
        x, below = left + (place + 0.5) * step, top + height + 12
        if distance > 0:  # a subtree that is not drawn further
            fill = BLUE if distance <= cut else GREY
            corners = f"{x:.1f},{y(distance):.1f} {x - 6:.1f},{y(0):.1f} {x + 6:.1f},{y(0):.1f}"
            parts.append(f'<polygon points="{corners}" fill="{fill}" fill-opacity="0.55"/>')
        turned = f'transform="rotate(60 {x - 3:.1f} {below:.1f})"'
        parts.append(_text(x - 3, below, label, QUIET, size=10, extra=turned))
    parts.append(_line(left, y(cut), width - 10, y(cut), RED, dash=True))
    parts.append(_text(width - 6, y(cut) + 4, f"cut {cut:g}", RED))
    room = 5.5 * max(len(label) for label in labels)
    return _svg(width + max(50, room / 2), top + height + 20 + room, parts, "Tree of the neurons' correlations")


def sizes_svg(sites: Sequence[str], neurons: Sequence[int], groups: Sequence[int]) -> str:
    """Per site how many neurons it has (pale) and how many groups are represented in it (blue)."""
    left, bar, gap, length = 150.0, 16.0, 10.0, 520.0
    longest = max(neurons)
    parts = []
    for place, (site, size, kept) in enumerate(zip(sites, neurons, groups, strict=True)):
        y = 10 + place * (bar + gap)
        parts.append(_text(left - 8, y + 12.5, site, INK, anchor="end"))
        for amount, fill in ((size, PALE), (kept, BLUE)):
            parts.append(
                f'<rect x="{left}" y="{y}" width="{length * amount / longest:.1f}" height="{bar}" fill="{fill}"/>'
            )
        note = f"{kept:,} of {size:,}"
        parts.append(_text(left + length * size / longest + 8, y + 12.5, note, QUIET))
    return _svg(left + length + 110, 14 + len(sites) * (bar + gap), parts, "Representatives per site")


def size_histogram_svg(sizes: Sequence[int]) -> str:
    """How many groups have 1, 2, 3–4, 5–8, … neurons."""
    most = max(sizes)
    edges = [1, 2]
    while edges[-1] < most:
        edges.append(edges[-1] * 2)
    bounds = [(1, 1), *((low + 1, high) for low, high in pairwise(edges))]
    bounds = [bound for bound in bounds if bound[0] <= most]
    counts = [sum(low <= size <= high for size in sizes) for low, high in bounds]
    labels = [str(low) if low == high else f"{low}–{high}" for low, high in bounds]
    return bars_svg(labels, counts, "neurons of a group", "groups")


def bars_svg(labels: Sequence[str], counts: Sequence[int], across: str, up: str) -> str:
    """Vertical bars with their counts on top."""
    left, top, height, step = 20.0, 26.0, 150.0, 52.0
    tallest = max([*counts, 1])
    parts = [_text(left, 12, up, QUIET)]
    for place, (label, count) in enumerate(zip(labels, counts, strict=True)):
        x, size = left + place * step, height * count / tallest
        parts.append(
            f'<rect x="{x + 6}" y="{top + height - size:.1f}" width="{step - 12}" height="{size:.1f}" fill="{BLUE}"/>'
        )
        if count:
            parts.append(_text(x + step / 2, top + height - size - 4, f"{count:,}", QUIET, anchor="middle", size=11))
        parts.append(_text(x + step / 2, top + height + 15, label, INK, anchor="middle", size=11))
    width = left + step * len(labels) + 20
    parts.append(_line(left, top + height, width - 20, top + height, QUIET))
    parts.append(_text(left, top + height + 34, across, QUIET))
    return _svg(max(width, 220), top + height + 42, parts, f"{up} by {across}")


def heat_map(words: Sequence[str], factors: Array, notes: Sequence[str]) -> tuple[str, str]:
    """Factors over the words of a text; resting on a factor colours the text.

    Args:
        words: of the text.
        factors: (words, k), not negative.
        notes: of each factor.

    Returns:
        HTML, and the JavaScript that it needs to be interactive.
    """
    share = factors / np.maximum(factors.max(axis=0), 1e-30)
    cell, left, top = 22.0, 84.0, 12.0 + 6.4 * max(len(word) for word in words) * 0.87
    parts = [
        _text(left + (i + 0.35) * cell, top - 6, word, INK, size=12,
              extra=f'transform="rotate(-60 {left + (i + 0.35) * cell:.1f} {top - 6:.1f})"')
        for i, word in enumerate(words)
    ]  # fmt: skip
    for k in range(share.shape[1]):
        y = top + k * cell
        row = [_text(left - 8, y + 15, f"factor {k}", INK, anchor="end")]
        for i, word in enumerate(words):
            tip = f"<title>factor {k}, {escape(word)}: {factors[i, k]:.3g}</title>"
            fill = colour(float(share[i, k]), 1.0)
            place = f'x="{left + i * cell:.1f}" y="{y:.1f}" width="{cell - 1}" height="{cell - 1}"'
            row.append(f'<rect {place} fill="{fill}" stroke="{LINE}" stroke-width="0.5">{tip}</rect>')
        parts.append(f'<g class="factor" data-factor="{k}" tabindex="0">{"".join(row)}</g>')
    picture = _svg(left + cell * len(words) + 70, top + cell * share.shape[1] + 8, parts, "Factors over the text")
    spans = " ".join(
        f'<span class="word" style="background:{colour(float(share[i, 0]), 1.0)}">{escape(word)}</span>'
        for i, word in enumerate(words)
    )
    said = f'<p class="quiet" id="said">factor 0: {escape(notes[0])}</p>'
    html = f'{picture}<p class="text" id="text">{spans}</p>{said}'
    data = json.dumps({"share": share.T.round(3).tolist(), "notes": list(notes)}).replace("</", "<\\/")
    return html, f"const data = {data};\n{_SCRIPT}"


_SCRIPT = """
function show(k) {
  document.querySelectorAll("#text .word").forEach((word, i) => {
    const s = data.share[k][i], mix = end => Math.round(255 + (end - 255) * s);
    word.style.background = `rgb(${mix(33)},${mix(102)},${mix(172)})`;
    word.style.color = s > 0.6 ? "#fff" : "#1b1f24";
  });
  document.getElementById("said").textContent = `factor ${k}: ${data.notes[k]}`;
  document.querySelectorAll(".factor text").forEach((t, i) => { t.style.fontWeight = i === k ? 700 : 400; });
}
document.querySelectorAll(".factor").forEach(row => {
  for (const event of ["mouseenter", "focus", "click"])
    row.addEventListener(event, () => show(Number(row.dataset.factor)));
});
show(0);
"""


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" {size}>{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, fill: str, *, anchor: str = "start", size: float = 12, extra: str = "") -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{fill}"'
    return f"<text {at} {extra}>{escape(text)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, *, dash: bool = False) -> str:
    dashes = ' stroke-dasharray="5 4"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{dashes}/>'


def _axis(left: float, right: float, y: Any, ticks: Sequence[float], name: str) -> str:
    lines = [_line(left, y(t), right, y(t), LINE) for t in ticks]
    labels = [_text(left - 6, y(t) + 4, f"{t:g}", QUIET, anchor="end", size=11) for t in ticks]
    middle = (y(ticks[0]) + y(ticks[-1])) / 2
    turned = f'transform="rotate(-90 12 {middle:.1f})"'
    return "".join([*lines, *labels, _text(12, middle, name, QUIET, anchor="middle", size=11, extra=turned)])
