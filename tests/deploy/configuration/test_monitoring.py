"""The Prometheus and Grafana files: valid, and about metrics and labels that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from neurodial.service.engine.metrics import EngineMetrics
from neurodial.service.instruments import Described
from neurodial.service.observability.metrics import HttpMetrics
from tests.service.engine.fake import FakeRunner

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "monitoring"
ADDED = {"replica", "job", "instance", "le", "model_name"}  # by the hub, by Prometheus, by histograms, by engines

DESCRIBED: list[Described] = [*EngineMetrics(FakeRunner().info.model).described, *HttpMetrics().described]


def series() -> dict[str, set[str]]:
    """Every name that a query may use, with its labels."""
    known: dict[str, set[str]] = {"up": set()}
    for metric in DESCRIBED:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        known |= {metric.name + suffix: {*metric.labels, "replica"} for suffix in suffixes}
    return known


def dashboard() -> Any:
    return json.loads((FOLDER / "grafana-dashboard.json").read_text())


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression, with Grafana's variables filled in."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


def parts(node: Any) -> Iterator[Any]:
    """A parsed expression and everything within it."""
    yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        if (inner := getattr(node, name, None)) is not None:
            yield from parts(inner)
    for inner in getattr(node, "args", None) or ():
        yield from parts(inner)


@pytest.mark.parametrize(("title", "query"), list(queries()), ids=lambda value: re.sub(r"\W+", "-", value)[:40])
def test_queries_ask_for_what_there_is(title: str, query: str) -> None:
    """Parsed as PromQL; names, matched labels and labels that are grouped by exist."""
    known, found = series(), set()
    nodes = list(parts(promql_parser.parse(query)))
    for node in nodes:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name in known, f"{title}: there is no {node.name}"
            found |= known[node.name]
            for matcher in node.matchers.matchers:
                assert matcher.name in known[node.name] | ADDED, f"{title}: {node.name} has no label {matcher.name}"
    assert found or "up" in query
    for node in nodes:
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql_parser.AggregateExpr) and modifier is not None:
            assert set(modifier.labels) <= found | ADDED, f"{title}: {modifier}"


@pytest.mark.parametrize(("title", "query"), list(queries()), ids=lambda value: re.sub(r"\W+", "-", value)[:40])
def test_counters_are_rates_before_they_are_summed(title: str, query: str) -> None:
    """A sum of counters over replicas falls when one ends; a sum of their rates does not."""
    gauges = {"up", *(m.name for m in DESCRIBED if m.kind == "gauge")}
    nodes = list(parts(promql_parser.parse(query)))
    named = [node.name for node in nodes if isinstance(node, promql_parser.VectorSelector)]
    ranges = [node.vector_selector.name for node in nodes if isinstance(node, promql_parser.MatrixSelector)]
    assert [name for name in named if name not in gauges] == ranges, title


def test_every_metric_is_shown() -> None:
    """On the dashboard, but for those that only describe."""
    shown = "".join(query for _, query in queries())
    missing = [m.name for m in DESCRIBED if not re.search(rf"\b{m.name}(_bucket|_sum|_count)?\b", shown)]
    assert missing == ["neurodial_model_info"]


def test_legends_and_annotations_use_labels_that_are_there() -> None:
    """`{{label}}` of a legend is one that its query keeps."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                kept = re.findall(r"by \(([^)]*)\)", target["expr"])
                assert any(label in group for group in kept) or not kept, (panel["title"], label)


def test_the_dashboard_can_be_imported() -> None:
    """Unique panels that do not overlap, variables that exist, a data source that is chosen on import."""
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board))) - {"__rate_interval", "__all"}
    assert used == variables


def test_the_scrape_configuration_finds_the_server() -> None:
    """The path that the application answers, the rules that lie beside it, the job that an alert names."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert (job["metrics_path"], job["static_configs"][0]["targets"]) == ("/metrics", ["127.0.0.1:8000"])
    assert all((FOLDER / file).exists() for file in config["rule_files"])
    assert f'job="{job["job_name"]}"' in alerts()[0]["expr"]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alerts_are_complete(rule: dict[str, Any]) -> None:
    """A severity, and two sentences for whoever is woken up."""
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description"}


def rows() -> list[str]:
    """The table of docs/reference/metrics.md."""
    rows = []
    for metric in sorted(DESCRIBED, key=lambda metric: metric.name):
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return rows


def test_the_page_lists_every_metric() -> None:
    """Name, kind, labels and meaning as in the code."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    listed = [line for line in page.splitlines() if line.startswith("| `neurodial_")]
    assert listed == rows(), "the table should be:\n" + "\n".join(rows())


def test_the_page_lists_every_alert() -> None:
    page = (ROOT / "docs" / "howto" / "monitor.md").read_text()
    for rule in alerts():
        assert f"`{rule['alert']}`" in page
