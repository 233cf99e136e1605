"""`neurodial job` without a cluster: what it refuses, and what it hands over; test_cluster.py runs it for real."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import ray.job_submission
from typer.testing import CliRunner, Result

from neurodial.deploy.cli.main import app
from neurodial.deploy.workers import WorkerSettings

DISCOVER = ("discover", "--model", "demo", "--corpus", "grammar:tense", "--concept", "tense", "--out", "t.safetensors")


def job(*args: object) -> Result:
    return CliRunner().invoke(app, ["job", *(str(a) for a in args)], env={"COLUMNS": "120"})


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
    result = job(*args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_usage_is_that_of_both_commands() -> None:
    assert "--workers" in job("--help").output
    assert "--concept" in job("discover", "--help").output
    assert "Missing option" in job("discover").output


def test_threads_follow_the_reservation() -> None:
    assert [WorkerSettings(cpus=cpus).threads for cpus in (0, 0.5, 1, 4)] == [1, 1, 1, 4]


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
