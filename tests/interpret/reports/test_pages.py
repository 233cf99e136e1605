"""Pages and pictures: whole without anything from outside, the same bytes again, hostile text kept as text."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from neurodial.interpret.methods.explanations import Concept, Context, Explanation, ExplanationReport
from neurodial.interpret.reports.page import figure, page
from neurodial.interpret.reports.pictures import colours, line_chart, png, svg, tip

HOSTILE = "$a_$</code></title><script>alert('&')</script>"
SERIES = {"a": {1: 0.5, 10: 0.9}, "<b>": {1: -0.2, 10: 0.1}}


def test_a_page_escapes_whatever_is_not_a_picture() -> None:
    html = page(
        "pruning", HOSTILE, [HOSTILE], made={"Command": HOSTILE, "Nothing": ""}, headings=[HOSTILE] * 3,
        rows=[[HOSTILE] * 3], picture=svg(lambda axes: axes.set_title(HOSTILE), HOSTILE),
    )  # fmt: skip
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 10
    assert "Nothing" not in html
    assert html.startswith("<!DOCTYPE html>\n<html") and html.endswith("</html>\n")


def test_what_a_corpus_says_stays_text() -> None:
    context = Context(f"a {HOSTILE}", ((0, 1), (2, 2 + len(HOSTILE))), (0.5, -2.0), 1.0, 1, (0.1, 0.2), HOSTILE)
    concepts = (Concept(HOSTILE, 0.5, 3, {HOSTILE: 2.0}), Concept("b", -1.0))
    one = Explanation(HOSTILE, "method", HOSTILE, HOSTILE, 0.5, concepts, (context,), {HOSTILE: float("nan")})
    for layout in ("cards", "side by side"):
        html = ExplanationReport(HOSTILE, {"x": HOSTILE}, HOSTILE, "", HOSTILE, (one, one), layout).to_html()
        assert "<script" not in html
        assert 'class="heat down strong peak" style="--v:1.000" title="-2.000, omission 0.200">$a_$&lt;/code' in html
    assert context.pieces == (("", "a"), (" ", HOSTILE))
    assert context.rest == ""


def test_a_chart_shows_every_point_and_says_its_value() -> None:
    drawn = line_chart(SERIES, colours(list(SERIES), "a"), "neurons", "up <to>")
    assert re.findall("<title>(.*?)</title>", drawn) == [
        "a, 1 neurons: 0.5", "a, 10 neurons: 0.9", "&lt;b&gt;, 1 neurons: -0.2", "&lt;b&gt;, 10 neurons: 0.1",
    ]  # fmt: skip
    assert 'aria-label="up &lt;to&gt;"' in drawn
    assert ">neurons</text>" in drawn  # letters, not their outlines


def test_ticks_have_room_beside_one_another() -> None:
    sizes = [1, 2, 4, 8, 15, 23, 38, 58, 77, 115, 192, 384, 768, 800]
    drawn = line_chart({"a": dict.fromkeys(sizes, 0.5)}, {"a": "#111111"}, "", "")
    shown = [int(n) for n in re.findall(r">(\d+)</text>", drawn)]
    assert shown[0] == 1 and shown[-1] == 800 and 768 not in shown
    assert set(shown) < set(sizes)


def test_pictures_are_of_the_page_and_the_same_again() -> None:
    first, again = (line_chart(SERIES, colours(list(SERIES), ""), "n", "up") for _ in range(2))
    assert first == again
    assert "http" not in first.replace("http://www.w3.org/2000/svg", "")
    assert "currentColor" in first
    assert re.findall(r'<g id="', first) == []  # two pictures of a page share no names
    known = set(re.findall(r'id="([^"]+)"', first))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', first)) <= known


def test_one_point_and_no_height_are_drawn_too(tmp_path: Path) -> None:
    assert "<title>a, 3 neurons: 0</title>" in line_chart({"a": {3: 0.0}}, {"a": "#111111"}, "n", "up")
    png(lambda axes: axes.plot([1], [1], "o", gid=tip("x")), tmp_path / "new" / "x.png")
    assert (tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "–"), (1234.0, "1,234"), (2.0, "2"), (0.12345, "0.123")])
def test_figures_for_people(value: float, text: str) -> None:
    assert figure(value) == text


def test_explanations_are_made_without_matplotlib() -> None:
    code = "import sys, neurodial.interpret.methods.explanations; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
