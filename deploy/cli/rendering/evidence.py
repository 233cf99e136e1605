"""How a neuron set's evidence is shown: a few lines, and a table of its causal effects."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

from neurodial.deploy.cli.rendering.tables import print_lines, table

Report = dict[str, Any]


def print_evidence(evidence: Report, console: Console) -> None:
    """Everything that shows that a set's neurons are the right ones; nothing for what was not measured."""
    print_lines(evidence_lines(evidence), console)
    causal = evidence.get("causal", {})
    if "note" in causal:
        console.print(escape(f"causal effect: not measured ({causal['note']})"))
    elif causal:
        _print_causal(causal, console)


def evidence_lines(evidence: Report) -> list[str]:
    """The evidence of a set in a few lines, its causal effects left out."""
    lines = [_probe_line(stack, probe) for stack, probe in evidence.get("probe", {}).items()]
    for stack, tested in evidence.get("significance", {}).items():
        lines.append(
            f"{stack}: {tested['found']:,} of {tested['neurons']:,} neurons tell the labels apart at a false discovery "
            f"rate of {tested['false_discovery_rate']:.0%}, of the set's {tested['set']} {tested['found_of_set']}"
        )
    lines += [_stability_line(stack, stable) for stack, stable in evidence.get("stability", {}).items()]
    lines += [_task_line(evidence["task"])] if "task" in evidence else []
    for site, scores in evidence.get("readout", {}).items():
        if scores.get("accuracy") is not None:
            lines.append(_readout_line(site, scores))
    for label, loss in evidence.get("tuning", {}).items():
        if isinstance(loss, dict):
            lines.append(
                f"moved to {label}: the model's own output for the other sentence costs {loss['loss']:.2f} nats "
                f"a token, {loss['loss_uncontrolled']:.2f} without control"
            )
    return lines


def _probe_line(stack: str, probe: Report) -> str:
    if "accuracy" not in probe:
        return f"{stack}: {probe.get('note', '')}"
    seen, low = probe.get("accuracy_seen_forms"), probe.get("selectivity_low")  # not in sets of earlier versions
    return (
        f"{stack} probe on {'held-out words' if seen is None else 'words of unseen forms'}: {probe['accuracy']:.1%} "
        f"(most frequent label {probe['majority']:.1%}, random neurons {probe['random_neurons']['mean']:.1%})"
        f"{'' if seen is None else f', on seen forms {seen:.1%}'}; control task {probe['control_task']:.1%}, "
        f"selectivity {probe['selectivity']:+.1%}{'' if low is None else f' (at least {low:+.1%})'}"
    )


def _task_line(task: Report) -> str:
    favoured = f", above zero on {task['favoured']:.1%}" if "favoured" in task else ""
    line = f"ranked by {task['score']} on {task['rows']} rows (mean {task['mean']:+.2f}{favoured})"
    facts = task.get("facts", {})
    if "suppress" not in facts:
        return line
    changes = (
        f"{name} {facts[key]:+.0%} (other facts {facts[f'{key}_others']:+.0%})"
        for name, key in (("without them", "suppress"), ("doubled", "enhance"))
        if f"{key}_others" in facts
    )
    return f"{line}; {facts['neurons_per_fact']} neurons a fact, probability {', '.join(changes)}"


def _stability_line(stack: str, stable: Report) -> str:
    if "note" in stable:
        return f"{stack} ranking: {stable['note']}"
    return (
        f"{stack} ranking on resampled data: {stable['top_shared']:.1%} of the top {stable['top']} found again (chance "
        f"{stable['chance']:.1%}), rank correlation {stable['rank_correlation']:.2f}"
    )


def _readout_line(site: str, scores: Report) -> str:
    recall = ", ".join(
        f"{name} {value['recall']:.1%}"
        for name, value in scores.items()
        if isinstance(value, dict) and value.get("recall") is not None
    )
    return f"read-out at {site}: {scores['accuracy']:.1%} of held-out tokens right; recall {recall}"


def _print_causal(causal: Report, console: Console) -> None:
    """What the set may be called, effects beside those of their rivals, and the perplexity ratio of other text."""
    text = causal.get("off_target", {}).get("text", {}).get("name", "")
    console.print(
        escape(
            f"causal effect, {causal['unit']} ({causal['measure']}), {causal['where']}; cost: perplexity ratio on "
            f"{text}; random: {causal['random_sets']} sets of the same sites"
        ),
        style="dim",
    )
    heads = ("", "set", "95 %", "share", "random", "cost", "random")
    console.print(table(heads, _causal_rows(causal), right=range(1, len(heads))))
    print_lines(list(_selection_lines(causal)), console)


def _selection_lines(causal: Report) -> Iterator[str]:
    """How far the control is above controls that were fitted alike on something else."""
    if "called" not in causal:
        yield f"selection gain: not measured{' (' + causal['not_refitted'] + ')' if 'not_refitted' in causal else ''}"
        return
    yield f"{causal['called']}, by what random neurons and shuffled labels do that the control was fitted on again:"
    for label, effect in causal["control"].items():
        selection, shuffled = effect["selection"], effect["shuffled_labels"]
        low, high = selection["gain_95"]
        points = f", {100 * selection['share']:+.0f} points of the way" if "share" in selection else ""
        yield (
            f"  to {label}: selection gain {selection['gain']:+.2f} ({low:+.2f} to {high:+.2f}{points}, "
            f"p {effect['p']:.2g}); shuffled labels {shuffled['mean']:+.2f}, the set's own {shuffled['own']:+.2f} "
            f"(p {shuffled['p']:.2g})"
        )


def _causal_rows(causal: Report) -> Iterator[list[str]]:
    cost = causal.get("off_target", {})
    for label, effect in causal.get("ablate", {}).items():
        yield [f"ablate, reading {label}", *_cells(effect, cost.get("ablate", {}))]
    for label, effect in causal.get("move", {}).items():  # of sets of earlier versions
        yield [f"move to {label}", *_cells(effect, cost.get("move", {}).get(label, {}))]
    for label, effect in causal.get("control", {}).items():
        ratios = cost.get("control", {}).get(label, {})
        yield [f"control ({effect['op']}) to {label}", *_cells(effect, ratios)]
        if "already" in effect:
            yield [f"  where it is {label} already", f"{effect['already']:+.2f}"]
        if "whole_vector" in effect:
            whole = {"set": ratios["whole_vector"]} if "whole_vector" in ratios else {}
            yield ["  whole vector, difference of means", *_cells(effect["whole_vector"], whole)]


def _cells(effect: Report, cost: Report) -> list[str]:
    low, high = effect["set_95"]
    random = effect.get("random", {}).get("mean")
    return [
        f"{effect['set']:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        f"{effect['share']:.0%}" if "share" in effect else "",
        "" if random is None else f"{random:+.2f}",
        f"{cost['set']:.2f}" if "set" in cost else "",
        f"{cost['random']:.2f}" if "random" in cost else "",
    ]
