"""`neurodial serve --demo --ray` on Ray Serve, as the official client, raw requests and jobs use it."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from neurodial.control.artifacts.catalogue import StoredSets
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.deploy.cli.main import app
from neurodial.deploy.demo import DEMO_SETS
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.service.access.auth import LOCAL
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from neurodial.service.sets.catalogue import Catalogue
from neurodial.service.sets.store import SetStore
from tests.deploy.serve.serving import NEURODIAL, Server
from tests.service.http.applications import Server as InProcess

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TEXT = "A tall boy is standing in the doorway."
CONTROLS: list[list[dict[str, Any]]] = [
    [],
    [{"set": "tense", "to": "past"}],
    [{"set": "number", "to": "plural"}],
    [{"neurons": "decoder.0.ffn[1,5,9]", "op": "clamp", "value": 3.0}],
    [{"neurons": "encoder.1.resid[0-15]", "op": "amplify", "value": 3.0, "where": "all"}],
]


@pytest.fixture(scope="module")
def server(demo_server: Server) -> Server:
    """What it is called here."""
    return demo_server


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    """OpenAI's own client."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


def complete(server: Server, **fields: Any) -> httpx.Response:
    """Posts a completion without OpenAI's client."""
    return httpx.post(f"{server.url}/v1/completions", json={"model": "en-es", **fields}, timeout=120)


def test_it_prints_two_commands_that_work(server: Server) -> None:
    """As a newcomer would paste them; the second has a control."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    commands = [line for line in server.output.read_text().splitlines() if line.startswith("curl ")]
    assert len(commands) == 2
    digests = []
    for command in commands:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=120)
        digests.append(json.loads(done.stdout)["translations"][0]["applied"]["digest"])
    assert digests[0] is None
    assert digests[1].startswith("sha256:")


def test_openai_client(client: openai.OpenAI) -> None:
    """Models, completions with `extra_body`, streaming with usage."""
    assert client.models.list().data[0].id == "en-es"
    plain = client.completions.create(model="en-es", prompt=TEXT)
    past = client.completions.create(model="en-es", prompt=[TEXT, TEXT], extra_body={"controls": CONTROLS[1]})
    assert plain.choices[0].finish_reason in ("stop", "length")
    assert past.choices[0].text == past.choices[1].text
    assert past.choices[0].applied["controls"][0]["to"] == "past"
    assert past.usage is not None
    assert past.usage.completion_tokens > 0
    chunks = list(
        client.completions.create(
            model="en-es",
            prompt=TEXT,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"controls": CONTROLS[1]},
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == past.choices[0].text
    assert chunks[-1].usage is not None


def test_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    """With the field."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="en-es", prompt=[TEXT, ""])
    assert refused.value.param == "prompt[1]"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt=TEXT)


def test_catalogue_and_health(server: Server) -> None:
    """Over the network and the handle."""
    card = httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]
    assert (card["architecture"], card["dtype"]) == ("marian", "float32")
    assert card["fingerprint"].startswith("sha256:")
    found = httpx.get(f"{server.url}/v1/controls", params={"model": "en-es"}, timeout=60).json()["data"]
    sets = {one["name"]: (one["labels"], one["num_neurons"]) for one in found}
    assert sets.keys() == DEMO_SETS.keys()
    assert sets["tense"] == (["present", "past"], 100)
    health = httpx.get(f"{server.url}/health", timeout=60)
    assert health.status_code == 200
    assert health.json()["engines"]["en-es"]["state"] == "ready"


def test_concurrent_requests_with_different_controls_get_their_solo_answers(server: Server) -> None:
    """Nobody's control leaks."""

    def answer(number: int) -> tuple[str, Any]:
        choice = complete(server, prompt=TEXT, controls=CONTROLS[number % 5]).json()["choices"][0]
        return choice["text"], choice["applied"]

    alone = [answer(number) for number in range(5)]
    with ThreadPoolExecutor(10) as pool:
        together = list(pool.map(answer, range(20)))
    assert together == alone * 4
    assert len({text for text, _ in alone}) >= 4


def test_models_in_one_application(server: Server) -> None:
    """Chosen by `model`, each with its own weights, two under one neuron set; a set is published for one alone."""
    cards = httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]
    assert [card["id"] for card in cards if ":" not in card["id"]] == ["en-es", "en-es-half", "en-lm"]
    assert len({card["fingerprint"] for card in cards if ":" not in card["id"]}) == 3
    for name in ("en-es", "en-es-half"):
        answer = complete(server, prompt=TEXT, model=name, controls=CONTROLS[1]).json()
        assert answer["model"] == name
        assert answer["choices"][0]["applied"]["controls"][0]["set"].startswith("tense")
    translated, written = (complete(server, prompt=TEXT, model=name).json() for name in ("en-es", "en-lm"))
    assert translated["choices"][0]["text"] != written["choices"][0]["text"]
    url = f"{server.url}/v1/controls?model=en-es-half&name=mood"
    octets = {"Content-Type": "application/octet-stream"}
    published = httpx.post(url, content=DEMO_SETS["tense"].read_bytes(), headers=octets, timeout=60)
    assert published.status_code == 201, published.text
    control = [{"set": "mood", "to": "past"}]
    served = complete(server, prompt=TEXT, model="en-es-half", controls=control)
    assert served.json()["choices"][0]["applied"]["controls"][0]["digest"] == published.json()["digest"]
    assert complete(server, prompt=TEXT, controls=control).status_code == 400


def test_one_page_of_metrics_shows_every_replica(server: Server) -> None:
    """The ingress and the engines of all models."""
    replicas = ("ingress", "engine-en-es", "engine-en-es-half", "engine-en-lm")
    deadline = time.monotonic() + 30
    while True:
        page = httpx.get(f"{server.url}/metrics", timeout=60).text
        if all(f'replica="{name}#' in page for name in replicas):
            break
        assert time.monotonic() < deadline, page
        time.sleep(0.5)


def test_bad_input_over_the_network(server: Server) -> None:
    """One clear envelope each; the server goes on."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a " * 50_000}, "prompt"),
        ({"prompt": "the door " * 200}, "prompt"),
        ({"prompt": [TEXT, "the door " * 200]}, "prompt[1]"),
        ({"prompt": TEXT, "controls": [{"neurons": "encoder.0.resid[99999]", "op": "prune"}]}, "controls[0].neurons"),
        ({"prompt": TEXT, "controls": [{"neurons": "encoder.9.resid[1]", "op": "prune"}]}, "controls[0].neurons"),
        ({"prompt": TEXT, "controls": [*CONTROLS[1], {"set": "mood", "to": "past"}]}, "controls[1].set"),
        ({"prompt": TEXT, "controls": [{"set": "tense", "to": "future"}]}, "controls[0].to"),
        ({"prompt": TEXT, "max_tokens": 10_000}, "max_tokens"),
    ]
    for fields, param in wrong:
        for extra in ({}, {"stream": True}):
            refused = complete(server, **fields, **extra)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    raw = [b'{"model":"en-es","prompt":"a","temperature":NaN}', b"{", b"\xff", b"[" * 90_000]
    for body in raw:
        assert httpx.post(f"{server.url}/v1/completions", content=body, timeout=60).status_code == 400
    assert httpx.post(f"{server.url}/v1/completions", content=b"x" * 1_500_000, timeout=60).status_code == 413
    assert httpx.get(f"{server.url}/nowhere", timeout=60).json()["error"]["code"] == "not_found"
    assert httpx.put(f"{server.url}/v1/completions", timeout=60).status_code == 405
    assert complete(server, prompt=TEXT).status_code == 200


def test_a_row_that_becomes_nan_fails_alone(server: Server) -> None:
    """500 with the reason; the request beside it is served."""
    poison = 2 * [{"neurons": "decoder.1.resid[*]", "op": "amplify", "value": 1e30}]
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(complete, server, prompt=TEXT, controls=poison)
        good = pool.submit(complete, server, prompt=TEXT)
        assert bad.result().status_code == 500
        assert "not a number" in bad.result().json()["error"]["message"]
        assert good.result().status_code == 200


def test_a_client_that_hangs_up_frees_its_row(server: Server) -> None:
    """In a stream and before an answer."""
    body: dict[str, Any] = {"model": "en-es", "prompt": [TEXT] * 64, "max_tokens": 60}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body | {"stream": True}, timeout=60) as response:
        assert next(response.iter_lines()).startswith("data: ")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=body | {"num_beams": 4}, timeout=httpx.Timeout(60, read=0.02))
    deadline = time.monotonic() + 60
    while True:
        state = httpx.get(f"{server.url}/health", timeout=60).json()["engines"]["en-es"]
        if state["num_running"] + state["num_waiting"] == 0:
            break
        assert time.monotonic() < deadline, state
        time.sleep(0.2)


def test_a_second_server_on_the_port_is_refused(server: Server) -> None:
    """One line; the first goes on."""
    done = CliRunner().invoke(app, ["serve", "--demo", "--port", str(server.port)])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[0].endswith("is in use")
    assert complete(server, prompt=TEXT).status_code == 200


def job(server: Server, *args: str) -> subprocess.Popen[str]:
    """`neurodial job` on the server's cluster."""
    return subprocess.Popen(
        [*NEURODIAL, "job", "--address", server.ray_address(), "--cpus", "0.5", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"},
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """As the job has: sums on more threads are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def tiny_address(tiny_marian: LoadedModel, tmp_path: Path) -> Iterator[str]:
    """An application over the tiny model in this process, that takes neuron sets."""
    store = SetStore(str(tmp_path / "sets"), max_bytes=1_000_000)
    engine = Engine(RequestProcessor(tiny_marian, StoredSets(store.read), model_id="tiny"))
    clients = {"tiny": LocalClient(engine)}
    services = Services(clients, catalogue=Catalogue(clients, store, refresh_s=0), anyone=LOCAL)
    with InProcess(create_app(services)) as address:
        yield address
    engine.close()


def test_a_job_beside_the_application_finds_what_one_process_finds_and_publishes_it(
    server: Server, tiny_marian_path: Path, tiny_address: str, tmp_path: Path
) -> None:
    """Two workers on the same cluster, one of which is killed and replaced; then requests can name the set."""
    corpus, out = "grammar:tense?count=600", tmp_path / "mood.safetensors"
    common = ["--model", str(tiny_marian_path), "--corpus", corpus, "--concept", "mood", "--top", "8", "--json"]
    anything = ["--min-gain=-1", "--min-selectivity=-1", "--min-effect=-99", "--max-p=1", "--max-cost=1e9"]
    publish = ["--publish", tiny_address, "--publish-as", "found", "--publish-model", "tiny", *anything]
    with job(server, "--workers", "2", "discover", *common, "--out", str(out), *publish) as process:
        while not (at_work := [pid for pid, name in server.relatives().items() if "ray::Worker.run" in name]):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        os.kill(at_work[0], signal.SIGKILL)
        printed, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    with one_thread():
        alone = discover(load_model(tiny_marian_path), open_corpus(corpus), Discovery("mood", top=8))
    assert json.loads(printed)["digest"] == NeuronSet.load(out).digest == alone.digest
    request = {"model": "tiny", "prompt": TEXT, "max_tokens": 5, "controls": [{"set": "found", "to": "past"}]}
    answer = httpx.post(f"{tiny_address}/v1/completions", json=request, timeout=60).json()
    assert answer["choices"][0]["applied"]["controls"][0]["digest"] == alone.digest


@pytest.mark.slow
def test_what_a_worker_cannot_do_is_said_in_one_line(server: Server, tiny_marian_path: Path, tmp_path: Path) -> None:
    """A damaged model: nothing is tried again, and nothing is left."""
    shutil.copytree(tiny_marian_path, tmp_path / "damaged")
    weights = load_file(tmp_path / "damaged" / "model.safetensors")
    weights["model.encoder.layers.1.fc2.bias"].fill_(float("nan"))
    save_file(weights, tmp_path / "damaged" / "model.safetensors", {"format": "pt"})
    args = ["extract", str(tmp_path / "damaged"), "grammar:tense?count=50", "--out", str(tmp_path / "store")]
    with job(server, "--workers", "1", *args) as process:
        printed, said = process.communicate(timeout=600)
    assert (process.returncode, printed) == (2, "")
    lines = [line for line in said.splitlines() if not line.startswith("no worker has started yet")]
    assert lines[0].startswith("error: encoder.1.resid: the activations of example ")
    assert len(lines) == 2
    assert not (tmp_path / "store").exists()
