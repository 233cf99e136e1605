"""Copies of a model in a Ray cluster that share the windows of a corpus: the executor of `neurodial job`.

Each worker is an actor that holds the model and takes the next window that nobody has taken. Results come back in the
order of the windows, so that who ran which makes no difference. Ray starts a worker that dies anew, on another machine
if need be, and runs again what it had been running.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayActorError, RayError

from neurodial.control.errors import ConfigError, NeurodialError, Unavailable
from neurodial.control.models.loading import LoadedModel
from neurodial.deploy.serve.cluster import started
from neurodial.service.version import package_version

Item = TypeVar("Item")
Result = TypeVar("Result")
RETRIES = 3  # of a window whose worker dies
IN_HAND = 2  # windows that a worker has at once: the next one is there when one is done
PATIENCE_S = 20.0  # after so long without a worker it is said why nothing happens
NICENESS = 10  # the application that runs on the same machines goes first


@dataclass(frozen=True)
class WorkerSettings:
    """How many workers, and where.

    Attributes:
        address: `auto` for the cluster that this machine is part of, `local` for one that lasts as long as the job, or
            host and port of a cluster.
        count: of workers; None for as many as find room at once.
        cpus: that Ray reserves for each; each computes with as many threads, and with one at least.
        gpus: that Ray reserves for each.
    """

    address: str = "auto"
    count: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def threads(self) -> int:
        """Threads of each."""
        return max(1, int(self.cpus))


class Worker:
    """What one actor runs.

    Args:
        load: gives the model.
        threads: of torch.
    """

    def __init__(self, load: Callable[[], LoadedModel], threads: int) -> None:
        os.nice(NICENESS)
        torch.set_num_threads(threads)
        self._load = load

    @cached_property
    def _loaded(self) -> LoadedModel:
        return self._load()

    def load(self) -> tuple[str, str, str]:
        """The model's fingerprint, Neurodial's version and the machine."""
        return self._loaded.fingerprint, package_version(), os.uname().nodename

    def run(self, function: Callable[[LoadedModel, Any], Any], item: Any) -> Any:
        """What the function makes of the model and an item; an iterator is read to its end."""
        result = function(self._loaded, item)
        return list(result) if isinstance(result, Iterator) else result


class WorkerPool:
    """Workers that take pieces of work; an `interpret.common.executors.Executor`.

    Args:
        workers: actors.
        fingerprint: that their model must have.
        say: is told, in a line, why nothing happens.
    """

    def __init__(self, workers: Sequence[Any], fingerprint: str, say: Callable[[str], None]) -> None:
        self._fingerprint, self._say = fingerprint, say
        self._starting = {worker.load.remote(): worker for worker in workers}
        self._ready: list[Any] = []
        self._most = 2 * IN_HAND * len(workers)  # pieces that are run or wait for an earlier one

    def map(self, function: Callable[[LoadedModel, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `interpret.common.executors.Executor.map`."""
        shared, numbered = ray.put(function), enumerate(items)
        free = deque(self._ready * IN_HAND)
        running: dict[Any, tuple[int, Any]] = {}
        done: dict[int, Any] = {}
        wanted, is_over = 0, False
        while True:
            while free and not is_over and len(running) + len(done) < self._most:
                number, item = next(numbered, (-1, None))
                is_over = number < 0
                if not is_over:
                    worker = free.popleft()
                    running[worker.run.remote(shared, item)] = number, worker
            if is_over and not running:
                return
            for ref in self._next([*running, *self._starting]):
                if ref in self._starting:
                    free.extend([self._checked(ref)] * IN_HAND)
                    continue
                number, worker = running.pop(ref)
                done[number] = ref
                free.append(worker)
            while wanted in done:
                yield _result(done.pop(wanted), f"window {wanted + 1} of the corpus")
                wanted += 1

    def _next(self, refs: list[Any]) -> list[Any]:
        """What is ready next, a message where nobody has been for a while."""
        found: list[Any] = ray.wait(refs, num_returns=1, timeout=None if self._ready else PATIENCE_S)[0]
        if not found:
            free = _free()
            self._say(
                f"no worker has started yet; the cluster has {free.get('CPU', 0):g} CPUs and "
                f"{free.get('GPU', 0):g} GPUs free (--cpus 0 reserves none)"
            )
            found = ray.wait(refs, num_returns=1)[0]
        return found

    def _checked(self, ref: Any) -> Any:
        """A worker that is ready.

        Raises:
            ConfigError: if its model or its version of Neurodial is another one.
        """
        fingerprint, version, machine = _result(ref, "the model's loading")
        if version != package_version():
            raise ConfigError(
                f"{machine} has Neurodial {version}, this machine {package_version()}", hint="install the same wheel"
            )
        if fingerprint != self._fingerprint:
            raise ConfigError(
                f"the model on {machine} ({fingerprint[:19]}…) is not the one on this machine "
                f"({self._fingerprint[:19]}…)",
                hint="copy the checkpoint to every machine of the cluster, to the same folder",
            )
        self._ready.append(self._starting.pop(ref))
        return self._ready[-1]


def _result(ref: Any, what: str) -> Any:
    """What an actor returned.

    Raises:
        NeurodialError: what it raised; Unavailable if it died again and again.
    """
    try:
        return ray.get(ref)
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, NeurodialError):
            raise cause from None
        if isinstance(error, RayActorError):
            raise Unavailable(
                f"{what}: the worker died {RETRIES + 1} times ({_line(error)})",
                hint="it may have run out of memory: fewer --workers on a machine, or fewer sites",
            ) from error
        raise Unavailable(f"{what}: the worker failed ({_line(cause or error)})") from error


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@contextmanager
def working(
    settings: WorkerSettings, load: Callable[[], LoadedModel], fingerprint: str, say: Callable[[str], None]
) -> Iterator[WorkerPool]:
    """Workers on a cluster, for as long as they are needed.

    Args:
        settings: how many, and where.
        load: gives the model on any machine of the cluster; a function that all of them can import.
        fingerprint: what the model must have.
        say: is told, in a line, why nothing happens.

    Raises:
        Unavailable: if there is no such cluster.
    """
    with started(settings.address, (settings.count or 0) * settings.cpus):
        kind: Any = ray.remote(Worker)
        made = kind.options(num_cpus=settings.cpus, num_gpus=settings.gpus, max_restarts=-1, max_task_retries=RETRIES)
        workers = [made.remote(load, settings.threads) for _ in range(settings.count or _room(settings))]
        try:
            yield WorkerPool(workers, fingerprint, say)
        finally:
            for worker in workers:
                ray.kill(worker)


@dataclass(frozen=True)
class ClusterExecutor:
    """An `Executor` that has workers for as long as a pass lasts, and leaves the cluster then.

    Attributes:
        settings: how many workers, and where.
        load: gives the model on any machine of the cluster; a function that all of them can import.
        fingerprint: what the model must have.
        say: is told, in a line, why nothing happens.
    """

    settings: WorkerSettings
    load: Callable[[], LoadedModel]
    fingerprint: str
    say: Callable[[str], None]

    def map(self, function: Callable[[LoadedModel, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `interpret.common.executors.Executor.map`."""
        with working(self.settings, self.load, self.fingerprint, self.say) as pool:
            yield from pool.map(function, items)


def _room(settings: WorkerSettings) -> int:
    """Workers that find room at once, and one at least."""
    free = _free()
    wanted = {"CPU": settings.cpus, "GPU": settings.gpus}
    return max(1, min((int(free.get(name, 0) // each) for name, each in wanted.items() if each), default=1))


def _free() -> dict[str, float]:
    """What no one has reserved, `CPU` and `GPU` among it."""
    resources: Any = ray.available_resources  # Ray leaves it untyped
    found: dict[str, float] = resources()
    return found
