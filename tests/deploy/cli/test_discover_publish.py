"""`neurodial discover --publish`: what the evidence does not carry is not published, and nothing slow runs in vain."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.deploy.jobs.publishing import Destination
from tests.deploy.cli.runner import check_refused, run

KEY = "admin-key-0123456789"
LEAST = ("--min-gain", "--min-selectivity", "--min-significant", "--min-effect", "--min-selection")
ANYTHING = (*(part for name in LEAST for part in (name, -99)), "--max-p", 9, "--max-cost", 1e9)
NOTHING = (*(part for name in LEAST for part in (name, 99)), "--max-p", -9, "--max-cost", -9)


@dataclass
class Server:
    """What a server got; it answers as ours does."""

    url: str = ""
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    sets: list[bytes] = field(default_factory=list)

    def take(self, path: str, key: str | None, data: bytes) -> dict[str, Any]:
        self.asked.append(asked := parse_qs(urlsplit(path).query))
        self.keys.append(key)
        self.sets.append(data)
        found = NeuronSet.parse(data)
        name, model = asked.get("name", [found.concept])[0], asked.get("model", ["en-es"])[0]
        return {"name": name, "digest": found.digest, "model": model, "num_neurons": found.num_neurons, "history": []}


@pytest.fixture
def server() -> Iterator[Server]:
    taken = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            answer = json.dumps(taken.take(self.path, self.headers.get("Authorization"), data)).encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        taken.url = f"http://127.0.0.1:{running.server_port}"
        yield taken
        running.shutdown()


@pytest.fixture
def options(tiny_marian_path: Path, tmp_path: Path) -> tuple[object, ...]:
    out = tmp_path / "tense.safetensors"
    corpus = "grammar:tense?count=150"
    return ("discover", "--model", tiny_marian_path, "--corpus", corpus, "--concept", "tense", "--out", out)


def test_a_set_with_good_evidence_is_published(options: tuple[object, ...], server: Server, tmp_path: Path) -> None:
    named = ("--publish-as", "mood", "--publish-model", "small", "--key-env", "OTHER_KEY")
    result = run(*options, "--publish", server.url, *named, *ANYTHING, "--json", OTHER_KEY=KEY)
    assert result.exit_code == 0, result.output
    assert server.asked == [{"name": ["mood"], "model": ["small"]}]
    assert server.keys == [f"Bearer {KEY}"]
    assert server.sets == [(tmp_path / "tense.safetensors").read_bytes()]
    report = json.loads(result.stdout)
    assert report["published"]["name"] == "mood"
    assert report["published"]["digest"] == report["digest"] == NeuronSet.parse(server.sets[0]).digest


def test_a_set_whose_evidence_falls_short_is_kept_and_not_published(
    options: tuple[object, ...], server: Server, tmp_path: Path
) -> None:
    result = run(*options, "--publish", server.url, *NOTHING)
    check_refused(result, "error: not published: ", code=1)
    for said in (
        "accuracy above the most frequent label is", "selectivity is", "lower end of the effect is",
        "random sets that fitted alike do as much is", "perplexity ratio of other text is",
    ):  # fmt: skip
        assert said in result.stderr
    assert server.sets == []
    assert NeuronSet.load(tmp_path / "tense.safetensors").num_neurons > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--publish", "https://models.example.org", "--evidence", "none"), "--publish needs evidence"),
        (("--publish", "models.example.org"), "is not an address"),
        (("--publish", "http://models.example.org"), "unencrypted"),
    ],
)
def test_what_cannot_be_published_is_refused_before_anything_runs(
    options: tuple[object, ...], tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    check_refused(run(*options, *more, NEURODIAL_API_KEY=KEY), said)
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_leaves_the_set(options: tuple[object, ...], tmp_path: Path) -> None:
    result = run(*options, "--publish", "http://127.0.0.1:9", *ANYTHING)
    check_refused(result, "http://127.0.0.1:9 does not answer", code=1)
    assert (tmp_path / "tense.safetensors").is_file()


def test_a_destination_does_not_show_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURODIAL_API_KEY", KEY)
    assert KEY not in repr(Destination.of("https://models.example.org"))
