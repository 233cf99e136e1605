"""What neurons answer to, and which belong together, for people: the reports of `explain` and `group`."""

from rich.console import Console
from rich.markup import escape

from neurodial.deploy.cli.rendering.tables import table, terminal
from neurodial.interpret.methods.explanation.visualization import side_by_side, terminal_text
from neurodial.interpret.methods.explanations import NOTHING, Explanation, ExplanationReport
from neurodial.interpret.reports.page import figure
from neurodial.interpret.studies.grouping.job import GroupReport, listed

MOST_GROUPS = 15


def print_explanations(report: ExplanationReport) -> None:
    """Each neuron's explanation, or all of them side by side on the same texts."""
    console = terminal()
    if report.layout == "side by side":
        console.print(side_by_side(report.explanations))
        return
    for one in report.explanations:
        _print_one(one, console)


def _print_one(one: Explanation, console: Console) -> None:
    label = (
        f"{escape(one.label)}  [dim]{one.measure} {figure(one.score)}[/dim]" if one.label else f"[dim]{NOTHING}[/dim]"
    )
    console.print(f"[bold]{escape(one.neuron)}[/bold]  {label}")
    if one.concepts:
        extra = list(dict.fromkeys(name for c in one.concepts for name in c.details))
        rows = (
            (
                c.name,
                figure(c.score),
                f"{c.support:,}" if c.support is not None else "",
                *(figure(c.details[name]) if name in c.details else "" for name in extra),
            )
            for c in one.concepts
        )
        console.print(table(("concept", one.measure, "support", *extra), rows, header_style="dim"))
    for context in one.contexts:
        line = terminal_text(context, one.scale)
        line.append(f"  {context.note}" if context.note else "", style="dim")
        console.print(f"{context.score:+8.3f} ", line, end="\n")
    if one.statistics:
        figures = " · ".join(f"{name} {figure(value)}" for name, value in one.statistics.items())
        console.print(f"[dim]{escape(figures)}[/dim]")
    console.print()


def print_groups(found: GroupReport) -> None:
    """The largest groups with some of their members."""
    console = terminal()
    figures = " · ".join(f"{name} {figure(value)}" for name, value in found.statistics.items())
    console.print(f"{found.neurons:,} neurons over {found.words:,} words · {escape(figures)}")
    scored = any(group.score is not None for group in found.groups)
    rows = (
        (
            one.representative,
            *([figure(one.score or 0.0)] if scored else []),
            f"{len(one.members):,}",
            listed(one.members, 4),
        )
        for one in found.groups[:MOST_GROUPS]
    )
    console.print(table(("neuron", *(["score"] if scored else []), "neurons", "members"), rows))
    if len(found.groups) > MOST_GROUPS:
        more = len(found.groups) - MOST_GROUPS
        console.print(f"[dim]… and {more:,} more; --json and --out show more of them[/dim]")
