"""The parts that every picture is made of: one self-contained page, coloured text, bars; no outside resource."""

from collections.abc import Iterable, Sequence
from html import escape

NEGATIVE, POSITIVE = (178, 24, 43), (33, 102, 172)  # red below zero, blue above
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1b1f24;
  background: #fff; max-width: 72rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.45rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 0 0 .3rem; }
h3 { font-size: .8rem; margin: 1rem 0 .3rem; color: #57606a; font-weight: 600; }
code { font: .92em ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
p { margin: .3rem 0; } .quiet { color: #57606a; } .nothing { color: #8c959f; font-style: italic; }
section { border: 1px solid #d8dee4; border-radius: 8px; padding: 1rem 1.2rem; margin: 1rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; color: #57606a; font-weight: 600; font-size: .8rem; border-bottom: 1px solid #d8dee4; }
th, td { padding: .2rem .9rem .2rem 0; vertical-align: baseline; } td.number, th.number { text-align: right; }
.bar { display: inline-block; height: .7em; border-radius: 2px; vertical-align: baseline; }
.text { line-height: 1.9; } .text span { padding: .12em 0; border-radius: 3px; }
.text .peak { box-shadow: inset 0 -2px 0 #1b1f24; } .text .mark { text-decoration: underline dotted; }
.scale { display: inline-block; width: 9rem; height: .7em; border-radius: 2px; vertical-align: baseline; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
"""


def page(title: str, body: Iterable[str], *, script: str = "") -> str:
    """A whole HTML document.

    Args:
        title: plain text.
        body: HTML.
        script: JavaScript to be put inline.
    """
    end = f"<script>{script}</script>\n" if script else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + f"\n{end}</body>\n</html>\n"
    )


def rgb(value: float, scale: float) -> tuple[int, int, int]:
    """Colour of a value: white at zero, full red at −scale, full blue at +scale."""
    strength = min(abs(value) / scale, 1.0) if scale > 0 else 0.0
    end = POSITIVE if value >= 0 else NEGATIVE
    red, green, blue = (round(255 + (c - 255) * strength) for c in end)
    return red, green, blue


def colour(value: float, scale: float) -> str:
    """`#rrggbb` of a value, see `rgb`."""
    return "#{:02x}{:02x}{:02x}".format(*rgb(value, scale))


def ink(value: float, scale: float) -> str:
    """Colour of text on top of a value's colour."""
    return "#ffffff" if scale > 0 and abs(value) / scale > 0.6 else "#1b1f24"


def heat_text(
    text: str,
    spans: Sequence[tuple[int, int]],
    values: Sequence[float],
    scale: float,
    *,
    peak: int | None = None,
    notes: Sequence[str] = (),
) -> str:
    """A text whose words carry the colours of their values.

    Args:
        text: plain text.
        spans: characters (start, end) of each word, in order.
        values: of each word.
        scale: the value of full colour.
        peak: number of the word to underline.
        notes: of each word, added to what shows when the pointer rests on it.
    """
    parts, cursor = [], 0
    for number, ((start, end), value) in enumerate(zip(spans, values, strict=True)):
        style = f"background:{colour(value, scale)};color:{ink(value, scale)}"
        mark = ' class="peak"' if number == peak else ""
        note = f"{value:+.3f}" + (f", {notes[number]}" if notes else "")
        parts.append(escape(text[cursor:start]))
        parts.append(f'<span{mark} style="{style}" title="{escape(note)}">{escape(text[start:end])}</span>')
        cursor = end
    return f'<span class="text">{"".join(parts)}{escape(text[cursor:])}</span>'


def bar(value: float, longest: float, *, width: float = 7.0) -> str:
    """A bar of a signed value; `width` is the longest one in rem."""
    size = width * min(abs(value) / longest, 1.0) if longest > 0 else 0.0
    red, green, blue = POSITIVE if value >= 0 else NEGATIVE
    return f'<span class="bar" style="width:{size:.2f}rem;background:rgb({red},{green},{blue})"></span>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    """A table of HTML cells; the columns `numbers` are aligned to the right."""
    right = set(numbers)

    def row(cells: Sequence[str], tag: str) -> str:
        inside = (
            f'<{tag} class="number">{cell}</{tag}>' if i in right else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(inside)}</tr>"

    return "<table>" + row(header, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"


def legend(scale: float | None = None) -> str:
    """What the colours mean."""
    low, high = (f"−{scale:.3g}", f"+{scale:.3g}") if scale is not None else ("negative", "positive")
    ends = ", ".join(f"rgb({r},{g},{b})" for r, g, b in (NEGATIVE, (255, 255, 255), POSITIVE))
    scale_bar = f'<span class="scale" style="background:linear-gradient(90deg,{ends})"></span>'
    return f'<p class="quiet">{low} {scale_bar} {high}</p>'
