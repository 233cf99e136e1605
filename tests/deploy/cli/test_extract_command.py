"""`neurodial extract`, discovery from its store, and causal methods, by command."""

import json
import re
from pathlib import Path

import pytest
import torch

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.models.loading import load_model
from neurodial.interpret.rankings.expert_units_file import Experts
from tests.deploy.cli.runner import run

GRAMMAR = "grammar:tense?count=100"


@pytest.fixture(scope="module")
def store(tiny_marian_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extract") / "store"
    result = run("extract", tiny_marian_path, GRAMMAR, "--sites", "encoder.1.resid,encoder.0.ffn", "--out", out)
    assert result.exit_code == 0, result.output
    assert "200 examples" in result.output
    assert "at 2 sites" in result.output
    return out


def test_discovery_reads_the_store(tiny_marian_path: Path, store: Path, tmp_path: Path) -> None:
    common = (
        "--model",
        tiny_marian_path,
        "--concept",
        "tense",
        "--evidence",
        "none",
        "--site",
        "encoder.1.resid",
        "--top",
        5,
    )
    for source, out in ((("--store", store), "a"), (("--corpus", GRAMMAR), "b")):
        result = run(
            "discover",
            *common,
            *source,
            "--site",
            "encoder.1.resid",
            "--top",
            5,
            "--out",
            tmp_path / f"{out}.safetensors",
        )
        assert result.exit_code == 0, result.output
    a, b = (NeuronSet.load(tmp_path / f"{name}.safetensors") for name in "ab")
    assert a.sites[0].indices.tolist() == b.sites[0].indices.tolist()
    assert a.sites[0].scores == pytest.approx(b.sites[0].scores, abs=1e-5)


def test_the_report_is_json_and_a_second_run_has_nothing_to_do(tiny_marian_path: Path, store: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    result = run("extract", tiny_marian_path, GRAMMAR, "--site", "encoder.0.ffn", "--site", "encoder.1.resid",
                 "--out", store, "--json")  # fmt: skip
    report = json.loads(result.stdout)
    assert (report["examples"], report["sites"]) == (200, ["encoder.0.ffn", "encoder.1.resid"])
    assert {path.name: path.stat().st_mtime_ns for path in store.iterdir()} == before


def test_a_neurox_file_there_and_back(tiny_marian_path: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("She opens the door.\nHe likes a tall house.\n")
    corpus = f"text:{tmp_path / 'text.txt'}"
    written = run("extract", tiny_marian_path, corpus, "--out", tmp_path / "acts.hdf5")
    assert "2 sentences, 3 layers of 32 neurons" in written.output
    read = run("extract", tiny_marian_path, corpus, "--from", tmp_path / "acts.hdf5", "--out", tmp_path / "store")
    assert "11 encoder words at 3 sites" in read.output


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("ablation", ("--param", "screened=0.2")),
        ("gradient-activation", ()),
        ("attribution-patching", ()),
        ("knowledge-attribution", ("--param", "steps=4")),
    ],
)
def test_causal_methods_by_command(tiny_marian_path: Path, tmp_path: Path, method: str, extra: tuple[str, ...]) -> None:
    pairs = tmp_path / "pairs.tsv"
    rows = [
        f"{s} {a} the {o}.\t{s} {b} the {o}.\tthe {o} {a}.\tthe {o} {b}."
        for s in ("She", "He", "The boy")
        for a, b in (("opens", "opened"), ("closes", "closed"), ("likes", "liked"))
        for o in ("door", "book", "house")
    ]
    pairs.write_text("\n".join(["a\tb\tx\ty", *rows]) + "\n")  # fmt: skip
    spec = f"pairs:{pairs}?present=a&past=b&present.target=x&past.target=y"
    out = tmp_path / "tense.safetensors"
    options = ("--model", tiny_marian_path, "--corpus", spec, "--concept", "tense", "--out", out, "--json")
    chosen = ("--method", method, "--site", "encoder.1.ffn", "--examples", 4, "--top", 5, "--evidence", "none")
    result = run("discover", *options, *chosen, *extra)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["evidence"]["task"]["rows"] <= 8
    assert NeuronSet.load(out).num_neurons == 5


def test_expert_units_write_their_table(tiny_marian_path: Path, tmp_path: Path) -> None:
    options = ("--model", tiny_marian_path, "--corpus", GRAMMAR, "--concept", "tense")
    result = run(
        "discover",
        *options,
        "--method",
        "expert-units",
        "--experts",
        tmp_path / "e.csv",
        "--out",
        tmp_path / "s.safetensors",
    )
    assert result.exit_code == 0, result.output
    assert len(Experts.load(tmp_path / "e.csv").units) == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sites", "encoder.9.resid"), "encoder.9.resid"),
        (("--level", "letter"), "--level letter: not known"),
        (("--store-as", "int8"), "'int8' is not one of 'float32', 'float16'"),
        (("--from", "x.hdf5", "--site", "encoder.1.resid"), "all that the file holds"),
        (("--from", "x.hdf5"), "there is no such file"),
    ],
)
def test_mistakes_cost_one_line_and_leave_nothing(
    tiny_marian_path: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run("extract", tiny_marian_path, GRAMMAR, "--out", tmp_path / "store", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_a_store_of_another_model_is_refused(tiny_marian_path: Path, store: Path, tmp_path: Path) -> None:
    manifest = json.loads((store / "store.json").read_text())
    manifest["model"]["fingerprint"] = "sha256:" + "0" * 64
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "store.json").write_text(json.dumps(manifest))
    out = tmp_path / "x.safetensors"
    options = ("--model", tiny_marian_path, "--concept", "x", "--out", out)
    result = run("discover", *options, "--store", tmp_path / "other")
    assert result.exit_code == 2
    assert "not of this model" in result.output
    nothing = run("discover", *options)
    assert "there is nothing to learn from" in nothing.output
    missing = run("discover", *options, "--store", tmp_path / "nowhere")
    assert "there is no activation store" in missing.output
    wrong = run("discover", *options, "--corpus", GRAMMAR, "--experts", "e.csv")
    assert "has no expert units" in wrong.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("text\tlabel\n" + "She opens.\ta\n" * 30, "sentences:{}", "nothing to contrast"),
        ("One door.\n\nTwo doors.\n", "regex:{}?pattern=door", "an empty line"),
        ("She opens the door.\nHe opens it.\nA book.\n", "words:{}?words=opens", "only 2 training examples|at least 8"),
        ("", "text:{}", "there is nothing to read in it"),
        ("She opens.\n" * 30, "regex:{}?pattern=.", "all words have the label 'match', nothing to contrast it with"),
        ("Она открыла дверь сегодня.\n" * 40, "words:{}?words=дверь", "0 have tokens of their own"),
    ],
)
def test_corpora_that_cannot_be_learned_from(
    tiny_marian_path: Path, tmp_path: Path, text: str, spec: str, message: str
) -> None:
    (tmp_path / "corpus").write_text(text)
    result = run("discover", "--model", tiny_marian_path, "--concept", "x", "--method", "probeless",
                 "--corpus", spec.format(tmp_path / "corpus"), "--out", tmp_path / "x.safetensors")  # fmt: skip
    assert result.exit_code == 2
    assert re.search(message, result.output)
    assert result.output.startswith("error: ")
    assert len(result.output.strip().splitlines()) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_activations_that_are_no_numbers(tiny_marian_path: Path, tmp_path: Path) -> None:
    broken = load_model(tiny_marian_path)
    with torch.no_grad():
        broken.model.get_encoder().layers[0].fc1.weight[3] = torch.nan
    model = tmp_path / "model"
    broken.model.save_pretrained(model)
    broken.tokenizer.save_pretrained(model)
    for command, arguments in (
        ("extract", (model, GRAMMAR, "--out", tmp_path / "store")),
        ("discover", ("--model", model, "--corpus", GRAMMAR, "--concept", "x", "--out", tmp_path / "x.safetensors")),
    ):
        result = run(command, *arguments)
        assert result.exit_code == 2
        assert "hold NaN or infinity" in result.output
        assert len(result.output.strip().splitlines()) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_labels_that_do_not_meet_a_token(tiny_marian_path: Path, tmp_path: Path) -> None:
    far = "She opens the door . " * 30  # what is labelled lies beyond what the model reads
    (tmp_path / "corpus").write_text(f"{far}zebra\n" * 30)
    spec, out = f"words:{tmp_path / 'corpus'}?words=zebra", tmp_path / "x.safetensors"
    options = ("--model", tiny_marian_path, "--concept", "x", "--method", "probeless")
    result = run("discover", *options, "--corpus", spec, "--out", out)
    assert result.exit_code == 2
    assert "only 0 training examples of 'listed'" in result.output
    assert "align with the tokenizer" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
