"""Pages of reports: templates that become one self-contained HTML file, which asks for nothing from outside."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

PAGE, DATA = "report.html", "report.json"


def page(
    template: str,
    title: str,
    lines: Sequence[str] = (),
    *,
    made: Mapping[str, Any] | None = None,
    **values: Any,
) -> str:
    """A whole HTML document; whatever is not markup already is escaped.

    Args:
        template: name of the file in `templates`, without its ending.
        title: of the page.
        lines: paragraphs below the title.
        made: what → text of the section that says how the report was made; what is empty is left out.
        values: what the template shows.
    """
    told = {what: value for what, value in (made or {}).items() if value}
    return _ENVIRONMENT.get_template(f"{template}.html.j2").render(title=title, lines=lines, made=told, **values)


def drawn(template: str, **values: Any) -> str:
    """A picture that is a template itself, such as `texts.svg`."""
    return _ENVIRONMENT.get_template(f"{template}.j2").render(**values)


def save(folder: Path, report: Mapping[str, Any], html: str) -> None:
    """Writes a report as `report.json`, and its page as `report.html`."""
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / DATA).write_text(text + "\n", encoding="utf-8")
    (folder / PAGE).write_text(html, encoding="utf-8")


def figure(value: float) -> str:
    """A number for people."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.3g}"


def corpus_line(corpus: Mapping[str, Any]) -> str:
    """Name, size and digest of a corpus that a report describes."""
    return f"{corpus['name']}, {corpus['size']:,} examples, {corpus['digest']}"


def settings_line(values: Mapping[str, Any]) -> str:
    """Names and values; None is left out."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["figure"] = figure
    return made


_ENVIRONMENT = _environment()
