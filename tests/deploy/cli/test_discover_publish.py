"""`neurodial discover --publish`: what the evidence does not carry is not published, and nothing slow runs in vain."""

import json
from pathlib import Path
from typing import Any

import pytest

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.deploy.cli.find.discover import discover
from neurodial.deploy.jobs.publishing import Destination
from tests.deploy.cli.test_discover_command import run
from tests.interpret.evidence.test_thresholds import GOOD, changed

URL = "https://models.example.org"
Sent = list[tuple[Destination, bytes]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What a server got; it answers as ours does."""
    taken: Sent = []

    def send(self: Destination, data: bytes) -> tuple[int, dict[str, Any]]:
        taken.append((self, data))
        found = NeuronSet.parse(data)
        about = {"name": self.name or found.concept, "digest": found.digest, "model": self.model or "en-es"}
        return 201, about | {"num_neurons": found.num_neurons, "history": []}

    monkeypatch.setattr(Destination, "send", send)
    return taken


@pytest.fixture
def options(tiny_marian_path: Path, tmp_path: Path) -> tuple[object, ...]:
    out = tmp_path / "tense.safetensors"
    corpus = "grammar:tense?count=150"
    return ("--model", tiny_marian_path, "--corpus", corpus, "--concept", "tense", "--out", out, "--publish", URL)


def evidence(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]) -> None:
    """Lets discovery gather some evidence, at once."""
    monkeypatch.setattr("neurodial.interpret.discovery.discover.gather_evidence", lambda *_: found)


def test_a_set_with_good_evidence_is_published(
    options: tuple[object, ...], sent: Sent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evidence(monkeypatch, GOOD)
    monkeypatch.setenv("OTHER_KEY", "admin-key-0123456789")
    named = ("--publish-as", "mood", "--publish-model", "small", "--key-env", "OTHER_KEY")
    result = run(discover, *options, *named, "--json")
    assert result.exit_code == 0, result.output
    ((destination, data),) = sent
    assert (destination.url, destination.name, destination.model) == (URL, "mood", "small")
    assert destination.key == "admin-key-0123456789"
    assert "admin-key" not in repr(destination)
    assert data == (tmp_path / "tense.safetensors").read_bytes()
    report = json.loads(result.stdout)
    assert report["published"]["name"] == "mood"
    assert report["published"]["digest"] == report["digest"] == NeuronSet.parse(data).digest


@pytest.mark.parametrize(
    ("found", "more", "said"),
    [
        ({}, (), "held-out accuracy was not measured"),
        (GOOD, ("--max-cost", 1.5), "perplexity ratio of other text is 1.7, more than 1.5"),
        (GOOD, ("--min-gain", 0.5), "accuracy above the most frequent label is 0.4, less than 0.5"),
        (changed("causal.move.past.p", 0.5), (), "random sets that do as much is 0.5, more than 0.2"),
        (GOOD, ("--min-selectivity", 0.2), "selectivity is 0.1, less than 0.2"),
        (GOOD, ("--min-effect", 2), "lower end of the effect is 1, less than 2"),
        (GOOD, ("--max-p", 0.1), "do as much is 0.167, more than 0.1"),
    ],
)
def test_a_set_whose_evidence_falls_short_is_kept_and_not_published(
    options: tuple[object, ...], sent: Sent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    found: dict[str, Any], more: tuple[object, ...], said: str,
) -> None:  # fmt: skip
    evidence(monkeypatch, found)
    result = run(discover, *options, *more)
    assert (result.exit_code, sent) == (1, [])
    assert result.stderr.startswith("error: not published: ")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert NeuronSet.load(tmp_path / "tense.safetensors").num_neurons > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--evidence", "none"), "--publish needs evidence"),
        (("--publish", "models.example.org"), "is not an address"),
        (("--publish", "http://models.example.org"), "unencrypted"),
    ],
)
def test_what_cannot_be_published_is_refused_before_anything_runs(
    options: tuple[object, ...], sent: Sent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: Any, said: str
) -> None:
    monkeypatch.setenv("NEURODIAL_API_KEY", "admin-key-0123456789")
    monkeypatch.setattr("neurodial.control.models.loading.load_model", None)
    result = run(discover, *options, *more)
    assert (result.exit_code, sent) == (2, [])
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_leaves_the_set(
    options: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evidence(monkeypatch, GOOD)
    result = run(discover, *options, "--publish", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "http://127.0.0.1:9 does not answer" in result.stderr
    assert (tmp_path / "tense.safetensors").is_file()
