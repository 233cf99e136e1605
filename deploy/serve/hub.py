"""One place that knows the metrics of all replicas: each pushes its own there, and `/metrics` shows them all."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prometheus_client.metrics_core import Metric
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from neurodial.control.errors import Unavailable
from neurodial.deploy.serve.handles import CALL_ERRORS, translated
from neurodial.service.observability.merging import Ledger, MetricsHub, Push, Reply, content_type, exposition

logger = logging.getLogger(__name__)

HUB = "hub"

_PERIOD_S = 1.0
_TIMEOUT_S = 2.0
_ONGOING = 1000
_KEPT_S = 60.0  # a page that old says nothing about now; a hub is replaced within ten seconds


class Hub:
    """The deployment's one replica; see `MetricsHub`. One that takes its place starts from what the others remember."""

    def __init__(self) -> None:
        self._hub = MetricsHub()

    async def push(self, push: Push, version: int) -> Reply:
        """See `MetricsHub.push`."""
        return self._hub.push(push, version)

    async def restore(self, ledger: Ledger) -> None:
        """See `MetricsHub.restore`."""
        self._hub.restore(ledger)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """See `MetricsSource.page`."""
        return exposition(self._hub.metrics(), accept)


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
        is_only: whether nobody else shows its page. Then the last one may stand in while the hub is replaced; with
            others, an older page could follow a newer one, and counters would go backwards.
    """

    def __init__(self, hub: DeploymentHandle[Any], *, is_only: bool = False) -> None:
        self._hub, self._is_only = hub, is_only
        self._last: dict[str, tuple[float, bytes]] = {}  # content type → when it was shown, and the page

    async def page(self, accept: str) -> tuple[bytes, str]:
        """See `MetricsSource.page`."""
        try:
            page, kind = await asyncio.wait_for(self._ask(accept), _TIMEOUT_S)
        except (Unavailable, TimeoutError) as error:
            kind = content_type(accept)
            shown, page = self._last.get(kind, (float("-inf"), b""))
            if time.monotonic() - shown > _KEPT_S:
                raise Unavailable("the metrics cannot be reached", hint="try again in a moment") from error
            return page, kind
        if self._is_only:
            self._last[kind] = time.monotonic(), page
        return page, kind

    async def _ask(self, accept: str) -> tuple[bytes, str]:
        try:
            result: tuple[bytes, str] = await self._hub.page.remote(accept)
        except CALL_ERRORS as error:
            raise translated(error) from error
        return result


class Reporter:
    """Pushes what this replica measures, once a second.

    Args:
        hub: its deployment.
        measure: gives everything that was measured since the start.
    """

    def __init__(self, hub: DeploymentHandle[Any], measure: Callable[[], list[Metric]]) -> None:
        context = serve.get_replica_context()
        self._replica = f"{context.deployment}#{context.replica_tag}"
        self._source = uuid.uuid4().hex
        self._hub, self._measure = hub, measure
        self._number = 0
        self._ledger = Ledger()
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
            try:
                await self._push()
            except Exception as error:  # the hub is being replaced, or everything stops: the next push has it all
                logger.debug("metrics could not be pushed: %s", error)

    async def _push(self) -> None:
        self._number += 1
        push = Push(self._source, self._replica, self._number, self._measure())
        reply = await self._call("push", push, self._ledger.version)
        if reply.version < self._ledger.version:  # a new hub
            await self._call("restore", self._ledger)
            reply = await self._call("push", push, self._ledger.version)
        if reply.ledger is not None:
            self._ledger = reply.ledger

    async def _call(self, method: str, *args: Any) -> Any:
        return await asyncio.wait_for(getattr(self._hub, method).remote(*args), _TIMEOUT_S)
