import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from neurodial.interpret.methods.registry import all_methods, explanation_methods
from tests.deploy.cli.runner import run

GRAMMAR = "grammar:tense?count=60"
SMALL = ["length=2", "steps=10", "texts=4"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("top-contexts", ["contexts=3"]),
        ("visualization", ["texts=2"]),
        ("aligned-concepts", ["texts=3"]),
        ("compositional", ["length=2"]),
        ("corpus-generation", SMALL),
    ],
)
def test_explain_prints_and_writes_a_page(
    tiny_marian_path: Path, tmp_path: Path, method: str, params: list[str]
) -> None:
    out = tmp_path / "report.html"
    options = [word for param in params for word in ("--param", param)]
    result = run(
        "explain", "encoder.1.ffn[3,5]", "--model", tiny_marian_path, "--method", method, "--corpus", GRAMMAR,
        "--out", out, *options,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "encoder.1.ffn[5]" in result.output
    page = out.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n")
    assert page.index("encoder.1.ffn[3]") < page.index("encoder.1.ffn[5]")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_explain_speaks_json_and_draws_svg(tiny_marian_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "text.svg"
    texts = ["--text", "She opens the door.", "--text", "He closed <it>."]
    result = run(
        "explain", "encoder.0.resid[7]", "--model", tiny_marian_path, "--method", "visualization", *texts,
        "--out", out, "--json",
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert (report["kind"], report["method"]["slug"], report["corpus"]) == ("explanations", "visualization", "text")
    (one,) = report["explanations"]
    assert one["neuron"] == "encoder.0.resid[7]"
    assert [c["text"] for c in one["contexts"]] == ["She opens the door.", "He closed <it>."]
    assert "&lt;" in out.read_text(encoding="utf-8")


def test_decoder_neurons_are_explained_on_the_target_side(tiny_marian_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.tsv"
    file.write_text("en\tes\n" + "She opens the door.\tthe door opens .\n" * 6, encoding="utf-8")
    corpus = f"parallel:{file}?source=en&target=es"
    result = run("explain", "decoder.1.resid[2]", "--model", tiny_marian_path, "--corpus", corpus, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["explanations"][0]["contexts"][0]["text"] == "the door opens ."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--corpus": None}, "either --corpus or --text"),
        ({"--method": "magic"}, "no method 'magic'"),
        ({"--method": "probeless"}, "no method 'probeless' here"),
        ({"--param": "depth=3"}, "no parameter 'depth'"),
        ({"--out": "report.pdf"}, "not a report"),
        ({"--out": "report.svg"}, "only visualization is drawn as SVG"),
        ({"address": "encoder.1.ffn[99]"}, "there is no 99"),
        ({"address": "encoder.1"}, "is not a neuron address"),
        ({"address": "decoder.1.ffn[1]"}, "no target side"),
        ({"address": "decoder.1.ffn[1]", "--method": "aligned-concepts"}, "no source sentence"),
        ({"--out": "nowhere/report.html"}, "cannot be written"),
    ],
)
def test_mistakes_cost_one_line(
    tiny_marian_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, str | None] = {"--model": str(tiny_marian_path), "--corpus": "grammar:tense?count=8"}
    options |= change
    address = options.pop("address", "encoder.1.ffn[3]")
    result = run("explain", address, *(w for k, v in options.items() if v is not None for w in (k, v)))
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_group_by_clustering(tiny_marian_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "groups.html"
    sites = ["--site", "encoder.*.resid", "--param", "cut=0.7"]
    result = run("group", "--model", tiny_marian_path, "--corpus", GRAMMAR, *sites, "--out", out)
    assert result.exit_code == 0, result.output
    assert "64 neurons" in result.output
    page = out.read_text(encoding="utf-8")
    assert page.count("<svg") == 1 and "encoder.1.resid" in page and "cut 0.7" in page
    assert "<h2>Representatives by site</h2>" in page and "<h2>Sizes</h2>" in page
    found = json.loads(run("group", "--model", tiny_marian_path, "--corpus", GRAMMAR, *sites, "--json").stdout)
    members = [m for g in found["groups"] for m in g["members"]]
    assert sorted(members) == sorted(f"encoder.{layer}.resid[{i}]" for layer in (0, 1) for i in range(32))
    assert all(g["representative"] in g["members"] for g in found["groups"])
    assert found["statistics"]["groups"] == len(found["groups"])


def test_group_by_factors_of_one_text(tiny_marian_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "factors.html"
    text = "She opens the </script> door."
    result = run(
        "group", "--model", tiny_marian_path, "--method", "nmf", "--text", text, "--param", "factors=3", "--out", out
    )
    assert result.exit_code == 0, result.output
    page = out.read_text(encoding="utf-8")
    assert page.count('class="factor"') == 3
    assert page.count("</script>") == 1  # the text cannot end the page's own
    assert "encoder.0.ffn" in result.output


def test_group_across_models(tiny_marian_path: Path) -> None:
    both = ["--model", tiny_marian_path, "--model", tiny_marian_path, "--method", "multi-model"]
    result = run("group", *both, "--corpus", GRAMMAR, "--json")
    found = json.loads(result.stdout)
    assert found["statistics"]["mean max-corr"] == pytest.approx(1, abs=1e-3)
    assert all(g["members"] == [g["representative"], f"model 2: {g['representative']}"] for g in found["groups"])


def test_a_text_without_words_has_no_factors(tiny_marian_path: Path) -> None:
    result = run("group", "--model", tiny_marian_path, "--method", "nmf", "--text", " ")
    assert result.exit_code == 2
    assert "has no words to factorize" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "probeless"], "no method 'probeless' here"),
        (["--method", "multi-model"], "1 models are given, but multi-model takes at least two"),
        (["--site", "*.resid"], "sites of both stacks"),
        (["--param", "cut=3"], "is not between 0 and 1"),
        (["--site", "encoder.7.ffn"], "matches no site of the model"),
        (["--text", "too"], "either --corpus or --text"),
    ],
)
def test_mistakes_of_group(tiny_marian_path: Path, options: list[str], message: str) -> None:
    result = run("group", "--model", tiny_marian_path, "--corpus", GRAMMAR, *options)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_methods_lists_every_method_with_its_properties() -> None:
    rows = {row["method"]: row for row in json.loads(run("methods", "--json").stdout)["methods"]}
    assert sorted(rows) == sorted(all_methods())
    assert rows["top-contexts"] == {
        "method": "top-contexts", "command": "explain", "scope": "global", "direction": "neuron → concept",
        "scalability": "low", "human": True, "supervision": False, "causal": False, "source": "Kádár et al. 2017",
    }  # fmt: skip
    assert {rows[m]["command"] for m in ("nmf", "clustering", "multi-model")} == {"group"}
    assert rows["probeless"]["command"] == "discover"
    wide, narrow = (run("methods", width=width).output for width in (140, 80))
    assert "Mu and Andreas 2020" in wide
    assert max(map(len, narrow.splitlines())) <= 80


def test_the_documentation_has_every_method_and_its_commands_parse() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "methods.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^### `([\w-]+)`$", page, re.MULTILINE))
    assert documented == set(explanation_methods()) | {
        slug for slug, method in all_methods().items() if method.properties.direction == "neurons → neurons"
    }
    commands = [shlex.split(line) for line in page.splitlines() if re.match(r"neurodial (explain|group) ", line)]
    assert len(commands) == 8
    for _, name, *arguments in commands:
        given = {word.split("=")[0] for word in arguments if word.startswith("--")}
        assert given <= set(re.findall(r"--[\w-]+", run(name, "--help").output))
        params = dict(p.split("=") for flag, p in pairwise(arguments) if flag == "--param")
        slug = arguments[arguments.index("--method") + 1]
        assert set(params) <= set(all_methods()[slug]().get_params())


def test_the_python_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "methods.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "methods.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "door\n"
