import json
from pathlib import Path

import pytest

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.models.loading import load_model
from neurodial.interpret.rankings.ranking_file import Ranking
from tests.deploy.cli.runner import check_refused, ctrl_c_at_update, run

SHORT = ("--limit", 20, "--test-limit", 10, "--rounds", 1)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sixty sentence pairs in the tiny model's words."""
    rows = [
        f"{who} {verb} the {thing}.\tThe {thing} {verb}."
        for who in ("She", "He", "The boy", "The cook")
        for verb in ("opens", "closes", "sees", "likes", "cooks")
        for thing in ("door", "book", "house")
    ]
    path = tmp_path_factory.mktemp("text") / "pairs.tsv"
    path.write_text("\n".join(["a\tb", *rows]) + "\n", encoding="utf-8")
    return f"parallel:{path}?source=a&target=b"


def test_prune_writes_a_checkpoint_with_its_report(tiny_marian_path: Path, parallel: str, tmp_path: Path) -> None:
    out = tmp_path / "made" / "smaller"
    result = run(
        "prune", "--model", tiny_marian_path, "--by", "log-odds", "--keep", 0.5, "--sweep", "0.75,1", "--to", "mean",
        "--corpus", parallel, "--out", out, *SHORT,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "keep 0.75: bleu" in result.stderr
    assert str(out) in result.stdout
    pruned = load_model(out)
    assert [info.width for info in pruned.sites.of("encoder", "ffn")] == [32, 32]
    assert pruned.lineage is not None
    assert pruned.lineage.ancestors == (load_model(tiny_marian_path).fingerprint,)
    assert sorted(p.name for p in (out / "pruning").iterdir()) == [
        "ranking.csv", "report.html", "report.json", "report.md", "sweep.png",
    ]  # fmt: skip
    report = json.loads((out / "pruning" / "report.json").read_text())
    assert [point["keep"] for point in report["points"]] == [0.75, 0.5]
    assert {text["size"] for text in report["corpora"].values()} == {20, 10}
    assert report["points"][1]["speed"]["step"]["ffn_ideal"] == 2.0
    assert report["original"]["cost"]["bytes"] == 4 * report["original"]["cost"]["parameters"]
    assert [p.name for p in out.parent.iterdir()] == ["smaller"]


def test_the_ranking_that_was_written_prunes_alike(tiny_marian_path: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    usual = ("--model", tiny_marian_path, "--keep", 0.5, "--rounds", 0, "--json")
    made = run("prune", *usual, "--by", "random", "--seed", 3, "--out", first)
    assert made.exit_code == 0, made.output
    assert "quality" not in json.loads(made.stdout)
    assert sorted(p.name for p in (first / "pruning").iterdir()) == [
        "ranking.csv", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    assert run("prune", *usual, "--by", first / "pruning" / "ranking.csv", "--out", again).exit_code == 0
    lineages = [load_model(folder).lineage for folder in (first, again)]
    assert lineages[0] is not None
    assert lineages[1] is not None
    assert lineages[0].kept == lineages[1].kept
    assert lineages[1].steps[-1]["by"] == "ranking.csv"
    further = run("prune", *usual, "--by", first / "pruning" / "ranking.csv", "--out", tmp_path / "x", "--model", first)
    assert further.exit_code == 0, further.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep", "0"), "keep 0: not in (0, 1]"),
        (("--keep", "1.5"), "keep 1.5: not in (0, 1]"),
        (("--keep", "1"), "nothing would be removed"),
        (("--sweep", "0.5;0.6"), "not numbers with commas"),
        (("--by", "size"), "there is no ranking 'size'"),
        (("--by", "missing.csv"), "missing.csv: there is no such ranking"),
        (("--by", "gradient"), "gradient scores need a corpus"),
        (("--to", "mean"), "needs a calibration"),
        (("--to", "one"), "'one' is not one of 'zero', 'mean'"),
        (("--what", "heads"), "number of heads"),
        (("--corpus", "text:nowhere.txt"), "nowhere.txt"),
        (("--model", "./nowhere"), "no such folder"),
        (("--recover-corpus", "text:a.txt"), "add --recover"),
        (("--calibration", "nothing.safetensors"), "no such calibration"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tiny_marian_path: Path, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    usual = {"--model": tiny_marian_path, "--by": "magnitude", "--keep": 0.5, "--out": tmp_path / "out", "--rounds": 0}
    given = usual | dict([options])
    result = run("prune", *(item for pair in given.items() for item in pair))
    check_refused(result, message)
    assert list(tmp_path.iterdir()) == []


def test_recovery_needs_text(tiny_marian_path: Path, tmp_path: Path) -> None:
    usual = ("--model", tiny_marian_path, "--by", "magnitude", "--keep", 0.5, "--out", tmp_path / "out", "--recover")
    for options, message in (((), "--recover needs text"), (("--minutes", 0), "minutes 0: not a positive number")):
        result = run("prune", *usual, *options, *(("--corpus", "grammar:tense?count=20") if options else ()))
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
    assert list(tmp_path.iterdir()) == []


def test_a_ranking_of_another_model_is_refused(tiny_marian_path: Path, foreign_set_path: Path, tmp_path: Path) -> None:
    options = ("--model", tiny_marian_path, "--keep", 0.5, "--out", tmp_path / "out")
    result = run("prune", *options, "--by", foreign_set_path)
    assert (result.exit_code, "not for this model" in result.stderr) == (2, True)
    ranking = tmp_path / "r.csv"
    assert run("inspect", foreign_set_path, "--ranking", ranking).exit_code == 0
    assert len(Ranking.load(ranking).rows) == 8
    assert run("prune", *options, "--by", ranking).exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["r.csv"]


def test_a_full_folder_is_left_alone(tiny_marian_path: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    options = ("--model", tiny_marian_path, "--by", "magnitude", "--keep", 0.5, "--rounds", 0, "--out", tmp_path)
    for more in ((), ("--overwrite",)):
        result = run("prune", *options, *more)
        assert result.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_recovery_trains_every_share_back_and_says_so(tiny_marian_path: Path, parallel: str, tmp_path: Path) -> None:
    out = tmp_path / "half"
    result = run(
        "prune", "--model", tiny_marian_path, "--by", "magnitude", "--keep", 0.5, "--sweep", 0.75, "--corpus", parallel,
        "--out", out, "--recover", "--steps", 6, "--minutes", 1, *SHORT,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "recovered: bleu" in result.stderr
    child, original = load_model(out), load_model(tiny_marian_path)
    assert child.lineage is not None
    assert [step["kind"] for step in child.lineage.steps] == ["pruned", "recovered"]
    assert child.lineage.changed_since(original.fingerprint)
    report = json.loads((out / "pruning" / "report.json").read_text())
    for point in report["points"]:
        training = point["recovered"]["training"]
        assert training["steps"] == 6
        assert training["dev_loss"] < training["dev_loss_before"]
        assert set(point["recovered"]["quality"]) == {"bleu", "chrf"}
        assert point["speed"]["step"]["tokens_per_s"]["pruned"] > 0
    assert report["out"]["fingerprint"] == child.fingerprint
    assert report["command"].startswith("neurodial")
    page = (out / "pruning" / "report.html").read_text()
    assert "BLEU recovered" in page and "KL 1" in page and original.fingerprint in page
    assert "pruned, then recovered" in (out / "README.md").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["half"]


def test_an_interrupted_recovery_goes_on(tiny_marian_path: Path, parallel: str, tmp_path: Path) -> None:
    options = ("--model", tiny_marian_path, "--by", "magnitude", "--keep", 0.5, "--sweep", 0.75, "--corpus", parallel,
               "--recover", "--steps", 4, "--out", tmp_path / "half", *SHORT)  # fmt: skip
    work, translated = tmp_path / "half.work", []
    for update in (6, 1):  # in the training of the second share, and at once when that goes on
        with ctrl_c_at_update(update):
            stopped = run("prune", *options)
        assert (stopped.exit_code, f"goes on with what is in {work}" in stopped.stderr) == (130, True)
        assert list(tmp_path.iterdir()) == [work]  # nothing but what the next call goes on with
        translated.append({file.name: file.stat().st_mtime_ns for file in (work / "targets").iterdir()})
    assert translated[0] == translated[1] != {}  # not translated again
    with ctrl_c_at_update(None) as updates:
        assert run("prune", *options).exit_code == 0
    assert 0 < updates[0] <= 4  # nor is what was trained trained again
    assert [p.name for p in tmp_path.iterdir()] == ["half"]


def test_a_mask_is_a_set_that_prunes(tiny_marian_path: Path, parallel: str, tmp_path: Path) -> None:
    file = tmp_path / "short.safetensors"
    options = ("--model", tiny_marian_path, "--by", "activation", "--keep", 0.5, "--corpus", parallel, *SHORT)
    result = run("prune", *options, "--as-set", file)
    assert result.exit_code == 0, result.output
    assert "128 neurons that short can do without" in result.stdout
    found = NeuronSet.load(file)
    assert (found.recommended.op, found.recommended.where, found.num_neurons) == ("prune", "all", 128)
    (figures,) = found.evidence["quality"].values()
    assert set(figures) == {"original", "masked"}
    assert found.provenance["corpus"]["size"] == 20
    report = json.loads(file.with_suffix(".json").read_text())
    assert (report["set"], sum(report["sites"].values())) == (found.digest, 128)
    assert found.digest in file.with_suffix(".html").read_text()
    for wrong in ((), ("--as-set", file, "--out", tmp_path / "x"), ("--as-set", file, "--recover")):
        assert run("prune", *options, *wrong).exit_code == 2
    assert sorted(tmp_path.iterdir()) == [file.with_suffix(s) for s in (".html", ".json", ".safetensors")]
