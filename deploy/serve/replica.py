"""What one replica of an engine deployment runs: a model behind the methods that the ingress calls."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ray.serve.handle import DeploymentHandle

from neurodial.control.errors import EngineGone, NeurodialError, Unavailable
from neurodial.deploy.configuration.config import Config
from neurodial.deploy.configuration.settings import ModelSettings
from neurodial.deploy.serve.hosted import HostedEngine, load_engine
from neurodial.deploy.serve.hub import Reporter
from neurodial.service.engine.client import Method
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import EngineInfo, EngineStats, Events, Failed
from neurodial.service.observability import logs

if TYPE_CHECKING:
    from neurodial.service.vllm.engine import VllmEngine

logger = logging.getLogger(__name__)

_CLOSE_S = 2.0  # a replica that stops has served what it had; an engine that is stuck is not waited for
_RELOAD_AFTER_S = 60.0  # a model whose loading failed for a reason that may pass is loaded anew after so long


class EngineReplica:
    """One engine on one replica.

    A model that cannot be loaded is reported to callers, and does not take the application's other models down.

    Args:
        settings: of the model.
        config: of the deployment.
        hub: gets what the engine measures.
    """

    _hosted: HostedEngine | None = None  # also of one whose construction failed
    _reporter: Reporter | None = None

    def __init__(self, settings: ModelSettings, config: Config, hub: DeploymentHandle[Any] | None = None) -> None:
        logs.set_up(config.logging)
        self._hosted = HostedEngine(settings, config, self.build)
        if hub is not None and self._hosted.engine is not None:
            self._reporter = Reporter(hub, self._hosted.engine.metrics)

    def build(self, settings: ModelSettings, config: Config) -> "Engine | VllmEngine":
        """Loads the model."""
        return load_engine(settings, config)

    async def info(self) -> EngineInfo:
        """The model and its neuron sets.

        Raises:
            NeurodialError: why the model could not be loaded.
        """
        return await self._host().info()

    async def stats(self) -> EngineStats:
        """How the engine is doing."""
        return await self._host().stats()

    async def generate(self, requests: tuple[EngineRequest, ...]) -> AsyncIterator[Events | NeurodialError]:
        """Serves requests that belong together, piece by piece; a refusal is the only item then."""
        try:
            async with aclosing(self._events(requests)) as arriving:
                async for events in arriving:
                    yield events
        except EngineGone as error:
            leave(error)
        except NeurodialError as error:
            yield error

    async def generate_whole(self, requests: tuple[EngineRequest, ...]) -> Events | NeurodialError:
        """Serves requests that belong together until all have ended or one has failed, or refuses them."""
        ends: Events = []
        try:
            async with aclosing(self._events(requests)) as arriving:
                async for events in arriving:
                    ends += events
                    if any(isinstance(event, Failed) for _, event in events):
                        break  # the answer is this error: what else runs is given up
        except EngineGone as error:
            leave(error)
        except NeurodialError as error:
            return error
        return ends

    async def _events(self, requests: tuple[EngineRequest, ...]) -> AsyncGenerator[Events, None]:
        async with aclosing(self._host().generate(requests)) as arriving:
            async for events in arriving:
                for _, event in events:
                    if isinstance(event, Failed) and isinstance(event.error, EngineGone):
                        raise event.error
                yield events

    async def call(self, method: Method, *args: Any, **options: Any) -> Any:
        """See `EngineClient.call`."""
        return await self._host().call(method, *args, **options)

    def check_health(self) -> None:
        """Lets Ray replace a replica whose engine is dead or stuck, or whose model may load at a second try.

        Raises:
            Unavailable: if it is.
        """
        host = self._host()
        if host.engine is not None and (state := host.engine.stats().state) != "ready":
            raise Unavailable(f"the engine is {state}")
        is_worth_another_try = host.failure is not None and host.failure.retryable
        if is_worth_another_try and time.monotonic() - host.started > _RELOAD_AFTER_S:
            raise host.failure or Unavailable("the model could not be loaded")

    async def __del__(self) -> None:
        """Stops the engine's thread, and tells what it has measured to the end; Serve awaits it."""
        if self._hosted is not None:
            await asyncio.to_thread(self._hosted.close, _CLOSE_S)
        if self._reporter is not None:
            await self._reporter.stop()

    def _host(self) -> HostedEngine:
        if self._hosted is None:
            raise Unavailable("the engine is not running")
        return self._hosted


def leave(reason: EngineGone) -> None:
    """Ends this process, whose engine can serve nothing any more; Serve starts another replica.

    If it stayed, it would answer at once, with errors, and so look like the replica with the least to do, to which
    Serve sends more than to any other until three checks of its health have failed.
    """
    logger.error("this replica leaves: %s", reason.message)
    os._exit(1)
