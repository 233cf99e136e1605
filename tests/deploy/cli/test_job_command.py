"""`neurodial job` without a cluster: what it refuses, and what it hands over; test_cluster.py runs it for real."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import ray.job_submission
from typer.testing import Result

from neurodial.control.errors import ConfigError
from neurodial.deploy.jobs.workers import WorkerPool, WorkerSettings
from neurodial.service.version import package_version
from tests.deploy.cli.runner import check_refused, run

DISCOVER = ("discover", "--model", "demo", "--corpus", "grammar:tense", "--concept", "tense", "--out", "t.safetensors")


def job(*args: object) -> Result:
    return run("job", *args)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("prune",), "prune: not a command that a job can run"),
        ((*DISCOVER, "--store", "x"), "a job has no pass over the corpus to share"),
        (("extract", "demo", "grammar:tense", "--out", "x.hdf5"), "a job writes stores alone"),
        (("--working-dir", ".", *DISCOVER), "nothing is sent to a cluster"),
        (("--address", "http://localhost:9", "--working-dir", "nowhere", *DISCOVER), "nowhere: not a folder"),
        ((*DISCOVER, "--method", "magic"), "no method 'magic'"),
    ],
)
def test_mistakes_cost_one_line(args: tuple[object, ...], said: str) -> None:
    check_refused(job(*args), said)


def test_usage_is_that_of_both_commands() -> None:
    assert "--workers" in job("--help").output
    assert "--concept" in job("discover", "--help").output
    check_refused(job("discover"), "missing option '--model'")


def test_threads_follow_the_reservation() -> None:
    assert [WorkerSettings(cpus=cpus).threads for cpus in (0, 0.5, 1, 4)] == [1, 1, 1, 4]


class FakeRay:
    """Ray with actors in this process, the youngest call of which is always done first."""

    def __init__(self) -> None:
        self.most = 0

    put = staticmethod(lambda value: value)
    get = staticmethod(lambda ref: ref[0])

    def wait(self, refs: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        self.most = max(self.most, len(refs))
        return [refs[-1]], refs[:-1]


class Reference(list[Any]):
    """What a call returns; a key of mappings, as Ray's are."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


def workers(count: int, loaded: tuple[str, str, str]) -> list[Any]:
    """Actors whose model is the number ten."""

    def method(function: Callable[..., Any]) -> Any:
        return SimpleNamespace(remote=lambda *args: Reference([function(*args)]))

    return [
        SimpleNamespace(load=method(lambda: loaded), run=method(lambda function, item: function(10, item)))
        for _ in range(count)
    ]


def test_results_come_in_order_and_few_items_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, read = FakeRay(), 0
    monkeypatch.setattr("neurodial.deploy.jobs.workers.ray", fake)
    pool = WorkerPool(workers(2, ("sha256:a", package_version(), "here")), "sha256:a", print)

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(50):
            read += 1
            yield number

    def times(model: Any, item: int) -> int:
        return int(model) * item

    for done, result in enumerate(pool.map(times, items())):
        assert result == 10 * done
        assert read - done <= 9  # two workers with two items each, and as many that wait for an earlier one
    assert (done, fake.most) == (49, 4)
    assert list(pool.map(times, [3])) == [30]
    assert list(pool.map(times, [])) == []


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        (("sha256:b", package_version(), "node-7"), "the model on node-7 .* is not the one on this machine"),
        (("sha256:a", "0.0.1", "node-7"), "node-7 has Neurodial 0.0.1"),
    ],
)
def test_a_worker_that_is_not_like_us_is_refused(
    loaded: tuple[str, str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurodial.deploy.jobs.workers.ray", FakeRay())
    with pytest.raises(ConfigError, match=said):
        list(WorkerPool(workers(1, loaded), "sha256:a", print).map(lambda model, item: item, [1]))


@dataclass
class Dashboard:
    """What answers for a cluster's dashboard."""

    address: str
    info: Any = field(default_factory=lambda: SimpleNamespace(status=SimpleNamespace(name="SUCCEEDED")))
    is_interrupted: ClassVar[bool] = False
    seen: ClassVar[dict[str, Any]] = {}

    def submit_job(self, **what: Any) -> str:
        self.seen.update(what)
        return "job-1"

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        yield "wrote tense.safetensors\n"
        if self.is_interrupted:
            raise KeyboardInterrupt

    def get_job_info(self, name: str) -> Any:
        return self.info

    def stop_job(self, name: str) -> None:
        self.seen["stopped"] = name


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> type[Dashboard]:
    class Fresh(Dashboard):
        seen: ClassVar[dict[str, Any]] = {}

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", Fresh)
    return Fresh


def test_a_job_is_handed_over_and_followed(dashboard: type[Dashboard], tmp_path: Path) -> None:
    result = job(
        "--address", "http://head:8265", "--workers", 3, "--working-dir", tmp_path, *DISCOVER, "--site", "*.ffn"
    )
    assert (result.exit_code, result.stdout) == (0, "wrote tense.safetensors\n")
    entry = dashboard.seen["entrypoint"]
    assert entry.startswith("neurodial job --cpus 1.0 --gpus 0.0 --workers 3 discover --model demo")
    assert entry.endswith("--site '*.ffn'")
    assert dashboard.seen["runtime_env"] == {"working_dir": str(tmp_path)}


def test_its_failure_is_ours(dashboard: type[Dashboard], monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(status=SimpleNamespace(name="FAILED"), message="exit code 2", driver_exit_code=2)
    monkeypatch.setattr(dashboard, "get_job_info", lambda self, name: failed)
    result = job("--address", "http://head:8265", *DISCOVER)
    assert result.exit_code == 2
    assert "job-1: failed (exit code 2)" in result.stderr


def test_ctrl_c_stops_it(dashboard: type[Dashboard], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "is_interrupted", True)
    assert job("--address", "http://head:8265", *DISCOVER).exit_code == 130
    assert dashboard.seen["stopped"] == "job-1"


def test_a_dashboard_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    result = job("--address", "http://127.0.0.1:9", *DISCOVER)
    assert result.exit_code == 1
    assert "the job was not taken" in result.stderr
    assert len(result.stderr.splitlines()) == 2
