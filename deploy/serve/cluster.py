"""How a command of ours joins or starts Ray: quietly, and so that Ctrl-C and SIGTERM take everything down again."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from types import FrameType
from typing import Any

from neurodial.control.errors import Unavailable

logger = logging.getLogger(__name__)

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
    # Ray's own limits are those of an idle machine.
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
}
_TRIES = 4
_OBJECT_STORE_BYTES = 512 * 1024 * 1024  # some windows' results; Ray would take 30 % of the memory


def prepare() -> None:
    """Sets what Ray's processes inherit: silence, normal priority, and a PYTHONPATH that holds wherever they start."""
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    if path := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in path.split(os.pathsep) if part)


def initialize(address: str, *, quietly: bool = False, **options: Any) -> None:
    """Joins Ray, or starts it; one of our own that does not come up is tried again, for some limits cannot be raised.

    Ray waits 15 s for its agents and 30 s for its node, whatever else the machine does. A later try finds on hand what
    an earlier one has read from the disk. What has started by then ends with this process.
    """
    import ray

    for left in reversed(range(_TRIES if address == "local" else 1)):
        try:
            with _muted() if quietly else nullcontext():
                ray.init(address=address, **options)
            return
        except Exception as error:  # Ray raises bare exceptions here
            if not left:
                raise
            logger.warning("Ray did not start (a busy machine?) and is tried again: %s", said(error))
            ray.shutdown()


def said(error: Exception) -> str:
    """An error of Ray's in one line that can be read."""
    return " ".join(str(error).split())[:300]


def interrupt_on_sigterm() -> None:
    """Makes SIGTERM an exception as Ctrl-C is, so that what has started by then is taken down."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def started(address: str, cpus: float = 0.0) -> Iterator[None]:
    """Joins a cluster, or runs one on this machine, unless this process has done so already.

    Args:
        address: `auto`, `local`, or host and port.
        cpus: that a local one should have at least.

    Raises:
        Unavailable: if there is no such cluster.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    prepare()
    interrupt_on_sigterm()
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options |= {
            "num_cpus": max(os.cpu_count() or 1, round(cpus + 0.5)),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        initialize(address, quietly=True, **options)  # a cluster that does not answer is a line of ours, not twenty
    except Exception as error:
        reason = "there is none on this machine" if address == "auto" else said(error)
        raise Unavailable(
            f"the cluster cannot be joined: {reason}",
            hint="--address HOST:PORT names one (RAY_AUTH_MODE=token where it wants Ray's token), local starts one",
        ) from error
    interrupt_on_sigterm()  # Ray has installed a handler of its own that prints a stack trace
    with redirect_stdout(sys.stderr):  # Ray's news, such as that a worker died, are not what a command prints
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _muted() -> Iterator[None]:
    """Drops what this process writes to standard error, that of its compiled parts too."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
