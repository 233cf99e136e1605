"""Line charts and matrices of an evaluation as inline SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

from neurodial.interpret.reports.html import colour, ink

INK, QUIET, LINE = "#1b1f24", "#57606a", "#d8dee4"
COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#bcbd22", "#3b4cc0",
)  # fmt: skip
RANDOM_COLOUR = "#8c959f"
WIDTH, HEIGHT, LEFT, TOP = 460.0, 240.0, 52.0, 14.0


def colours(names: Sequence[str], random: str) -> dict[str, str]:
    """A colour for every method, grey for the baseline."""
    return {name: RANDOM_COLOUR if name == random else COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def line_chart(series: Mapping[str, Mapping[int, float]], paint: Mapping[str, str], across: str, up: str) -> str:
    """Curves over the number of neurons, on a logarithmic axis; resting on a point says its value.

    Args:
        series: name → number of neurons → value.
        paint: name → colour.
        across: what the horizontal axis is.
        up: what the vertical axis is.
    """
    sizes = sorted({size for values in series.values() for size in values})
    points = [value for values in series.values() for value in values.values()]
    low, high = min([*points, 0.0]), max([*points, 1e-9])
    room = (high - low) * 0.06
    low, high = (low - room if low < 0 else low), high + room
    last = log10(max(sizes[-1], 2))

    def x(size: int) -> float:
        return LEFT + (WIDTH - LEFT - 14) * log10(size) / last

    def y(value: float) -> float:
        return TOP + HEIGHT * (1 - (value - low) / (high - low))

    parts = []
    for value in _ticks(low, high):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 14}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="{LINE}"/>')
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:g}", "end"))
    for size in sizes:
        parts.append(_text(x(size), TOP + HEIGHT + 16, str(size), "middle"))
    for name, values in series.items():
        path = " ".join(f"{x(size):.1f},{y(values[size]):.1f}" for size in sorted(values))
        dash = ' stroke-dasharray="5 4"' if paint[name] == RANDOM_COLOUR else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{paint[name]}" stroke-width="1.8"{dash}/>')
        for size, value in values.items():
            tip = f"<title>{escape(name)}, {size} neurons: {value:.3g}</title>"
            parts.append(f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="3" fill="{paint[name]}">{tip}</circle>')
    parts.append(_text((LEFT + WIDTH) / 2, TOP + HEIGHT + 34, across, "middle"))
    return _svg(WIDTH, TOP + HEIGHT + 42, parts, up)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** round(log10((high - low) / 4))
    for finer in (1.0, 0.5, 0.2):
        if (high - low) / (step * finer) >= 4:
            step *= finer
            break
    first = -int(-low // step)
    return [round((first + i) * step, 6) for i in range(int((high - first * step) // step) + 1)]


def matrix(names: Sequence[str], values: Mapping[str, Mapping[str, float]], title: str) -> str:
    """A table of shares between methods, darker where they agree more."""
    cell, left = 46.0, 130.0
    top = 12 + 5.2 * max(len(name) for name in names)
    parts = []
    for i, name in enumerate(names):
        x = left + (i + 0.5) * cell
        turned = f'transform="rotate(-45 {x:.1f} {top - 8:.1f})"'
        parts.append(_text(x, top - 8, name, "start", turned))
        parts.append(_text(left - 8, top + i * cell * 0.6 + 18, name, "end"))
        for j, other in enumerate(names):
            value = values[name][other]
            at = (
                f'x="{left + j * cell:.1f}" y="{top + i * cell * 0.6:.1f}" width="{cell - 1}" height="{cell * 0.6 - 1}"'
            )
            parts.append(f'<rect {at} fill="{colour(value, 1.0)}"/>')
            place = f'x="{left + (j + 0.5) * cell:.1f}" y="{top + i * cell * 0.6 + 18:.1f}"'
            style = f'font-size="11" text-anchor="middle" fill="{ink(value, 1.0)}"'
            parts.append(f"<text {place} {style}>{value:.2f}</text>")
    return _svg(left + cell * len(names) + 80, top + cell * 0.6 * len(names) + 8, parts, title)


def key(paint: Mapping[str, str]) -> str:
    """Which colour is which method."""
    return "".join(
        f'<span style="margin-right:1.1rem;white-space:nowrap"><span class="bar" style="width:1.1rem;background:{c}">'
        f"</span> {escape(name)}</span>"
        for name, c in paint.items()
    )


def _text(x: float, y: float, text: str, anchor: str, extra: str = "") -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}" fill="{QUIET}"'
    return f"<text {at} {extra}>{escape(text)}</text>"


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" {size}>{"".join(parts)}</svg>'
    )
