"""One place that knows the metrics of all replicas: each pushes its own there, and `/metrics` shows them all."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prometheus_client.metrics_core import Metric
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from neurodial.control.errors import Unavailable
from neurodial.deploy.serve.handles import CALL_ERRORS
from neurodial.service.observability.exposition import exposition

logger = logging.getLogger(__name__)

HUB = "hub"

_PERIOD_S = 1.0
_TIMEOUT_S = 2.0
_KEPT_S = 10.0  # longer than Prometheus' interval, so that what a replica told last is scraped
_ONGOING = 1000


@dataclass(frozen=True)
class _Push:
    number: int
    at: float
    metrics: list[Metric]


class Hub:
    """The deployment's one replica: it keeps the last push of every other one, for a while.

    One that takes its place knows as much as soon as everybody has pushed again.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pushes: dict[str, _Push] = {}

    async def push(self, replica: str, number: int, metrics: list[Metric]) -> None:
        """Takes what a replica has measured since its start.

        Args:
            replica: what it is called in labels, like no other process.
            number: of the push; earlier ones that arrive later are ignored, or its counters would fall.
            metrics: everything.
        """
        known = self._pushes.get(replica)
        if known is None or number > known.number:
            self._pushes[replica] = _Push(number, self._clock(), metrics)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """Everybody's last push, but of those that have been silent for too long; see `MetricsSource.page`."""
        oldest = self._clock() - _KEPT_S
        self._pushes = {replica: push for replica, push in self._pushes.items() if push.at > oldest}
        return exposition({replica: push.metrics for replica, push in self._pushes.items()}, accept)


def hub_deployment(logs: LoggingConfig) -> serve.Application:
    """The hub, to be bound to every other deployment."""
    deployment: Any = serve.deployment(
        Hub,
        name=HUB,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_ONGOING,
        graceful_shutdown_timeout_s=0.0,
        logging_config=logs,
    )
    bound: serve.Application = deployment.bind()
    return bound


class HubMetrics:
    """What `/metrics` shows on Ray; see `MetricsSource`.

    Args:
        hub: its deployment.
    """

    def __init__(self, hub: DeploymentHandle[Any]) -> None:
        self._hub = hub

    async def page(self, accept: str) -> tuple[bytes, str]:
        """See `MetricsSource.page`. No earlier page stands in for one: its counters could be below the last one's."""
        try:
            page: tuple[bytes, str] = await asyncio.wait_for(self._hub.page.remote(accept), _TIMEOUT_S)
        except (*CALL_ERRORS, TimeoutError) as error:
            raise Unavailable("the metrics cannot be reached", hint="try again in a moment") from error
        return page


class Reporter:
    """Pushes what this replica measures, once a second.

    Args:
        hub: its deployment.
        measure: gives everything that was measured since the start.
    """

    def __init__(self, hub: DeploymentHandle[Any], measure: Callable[[], list[Metric]]) -> None:
        context = serve.get_replica_context()
        self._replica = f"{context.deployment}#{context.replica_tag}"
        self._hub, self._measure = hub, measure
        self._number = 0
        self._stopped = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._report())

    async def stop(self) -> None:
        """Pushes once more and stops."""
        self._stopped.set()
        await asyncio.wait([self._task], timeout=_TIMEOUT_S)

    async def _report(self) -> None:
        is_last = False
        while not is_last:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), _PERIOD_S)
            is_last = self._stopped.is_set()
            self._number += 1
            try:
                pushing = self._hub.push.remote(self._replica, self._number, self._measure())
                await asyncio.wait_for(pushing, _TIMEOUT_S)
            except Exception as error:  # the hub is being replaced, or everything stops: the next push has it all
                logger.debug("metrics could not be pushed: %s", error)
