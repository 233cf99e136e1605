"""Pictures of reports, drawn by matplotlib and shown as SVG: the same input gives the same bytes.

Ink and paper are the page's, light or dark; letters stay letters.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import log10
from pathlib import Path
from typing import Any

from cycler import cycler
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

Draw = Callable[[Any], None]  # puts a picture on matplotlib's axes
Size = tuple[float, float]

INK = "#57606a"  # of letters and lines; a page puts its own in its place
GREY = "#8c959f"
COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#bcbd22", "#4c6ef5",
)  # fmt: skip
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "neurodial",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.2,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
CHART: Size = (460, 290)
LETTER = 7.0  # pixels that a digit of a tick may take
_ANONYMOUS = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def svg(draw: Draw, title: str, size: Size = CHART) -> Markup:
    """A picture as part of a page.

    Args:
        draw: draws it.
        title: what it is, for those who cannot see it.
        size: width and height in pixels.
    """
    text = _saved(draw, size, format="svg", transparent=True, metadata=_ANONYMOUS).decode("utf-8")
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'<g id="tip ([^"]*)">', r"<g><title>\1</title>", text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # names that several pictures of one page would share
    text = re.sub(r' xmlns:xlink="[^"]*"', "", text).replace("xlink:href", "href")
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))


def png(draw: Draw, path: Path, size: Size = (990, 605)) -> None:
    """Writes a picture to a file; `size` is in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_saved(draw, size, format="png", dpi=110, metadata={"Software": None}))


def _saved(draw: Draw, size: Size, *, dpi: float = 96, **options: Any) -> bytes:
    with rc_context(STYLE):
        made = Figure(figsize=(size[0] / dpi, size[1] / dpi), layout="constrained")
        draw(made.subplots())
        content = io.BytesIO()
        made.savefig(content, dpi=dpi, **options)
    return content.getvalue()


def tip(text: str) -> str:
    """The `gid` of something drawn that says `text` when the pointer rests on it."""
    return f"tip {text}"


def colours(names: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for each name, grey for the baseline."""
    return {name: GREY if name == baseline else COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def line_chart(series: Mapping[str, Mapping[int, float]], paint: Mapping[str, str], across: str, up: str) -> Markup:
    """Curves over the number of neurons, on a logarithmic axis; resting on a point says its value.

    Args:
        series: name → number of neurons → value.
        paint: name → colour; what is grey is dashed.
        across: what the horizontal axis is.
        up: what the vertical axis is.
    """
    sizes = sorted({size for values in series.values() for size in values})

    def draw(axes: Any) -> None:
        for name, values in series.items():
            dash = "--" if paint[name] == GREY else "-"
            axes.plot(sorted(values), [values[size] for size in sorted(values)], dash, color=paint[name], linewidth=1.5)
            for size, value in values.items():
                said = tip(f"{name}, {size} neurons: {value:.3g}")
                axes.plot([size], [value], "o", color=paint[name], markersize=4.5, clip_on=False, gid=said)
        axes.set_xscale("log")
        axes.set_xticks(_apart(sizes), [f"{size:,}" for size in _apart(sizes)])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.update_datalim([(sizes[0], 0.0)])  # zero shows whatever the values are
        axes.autoscale_view()
        if axes.dataLim.ymin >= 0:
            axes.set_ylim(bottom=0.0)
        axes.set_xlabel(across)

    return svg(draw, up)


def _apart(sizes: Sequence[int]) -> list[int]:
    """The sizes whose ticks have room beside one another on a logarithmic axis: first the last, then from the left."""
    each = (CHART[0] - 80) / max(log10(sizes[-1] / sizes[0]), 1e-9)  # pixels of a factor of ten
    kept = [sizes[-1]]

    def clear(one: int, other: int) -> bool:
        room = LETTER * (len(f"{one:,}") + len(f"{other:,}")) / 2 + LETTER
        return abs(log10(one / other)) * each >= room

    for size in sizes:
        if all(clear(size, other) for other in kept):
            kept.append(size)
    return sorted(kept)
