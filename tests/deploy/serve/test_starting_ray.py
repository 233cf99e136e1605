"""Ray on a machine that is too busy for Ray's own limits."""

import logging
import os
from typing import Any

import pytest
import ray

from neurodial.deploy.serve import cluster


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray was asked for; the first two times it does not come up."""
    asked: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        asked.append(options)
        if len(asked) < 3:
            raise Exception("The current node\n timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return asked


def test_ray_is_tried_again(starts: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    """Each time with the same options, and each time somebody who waits is told."""
    with caplog.at_level(logging.WARNING):
        cluster.initialize("local", num_cpus=2)
    assert starts == 3 * [{"address": "local", "num_cpus": 2}]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == 2 * [
        "The current node timed out during startup."
    ]


def test_a_cluster_that_is_named_is_tried_once(starts: list[dict[str, Any]]) -> None:
    """It is somebody else's to start."""
    with pytest.raises(Exception, match="timed out during startup"):
        cluster.initialize("10.0.0.1:6379")
    assert len(starts) == 1


def test_rays_limits_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody has set them."""
    environment = {"RAY_gcs_server_port_wait_time_s": "7"}
    monkeypatch.setattr(os, "environ", environment)
    cluster.prepare()
    assert environment["RAY_gcs_server_port_wait_time_s"] == "7"
    assert environment["RAY_raylet_start_wait_time_s"] == "120"
