"""A model's engine in this process, or the reason why there is none."""

import gc
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from neurodial.control.errors import NeurodialError, Unavailable
from neurodial.deploy.configuration.config import Config
from neurodial.deploy.configuration.settings import ModelSettings
from neurodial.service.engine.client import EngineClient, LocalClient, Method
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import EngineInfo, EngineStats, Events

if TYPE_CHECKING:
    from neurodial.service.vllm.engine import VllmEngine

logger = logging.getLogger(__name__)


def load_engine(settings: ModelSettings, config: Config) -> "Engine | VllmEngine":
    """Loads a model and starts its engine; see `build_engine` and `build_vllm`."""
    from neurodial.deploy.serve import engines  # brings torch, which the ingress does without

    build = engines.build_vllm if settings.engine == "vllm" else engines.build_engine
    return build(settings, config)


@contextmanager
def _without_collection() -> Iterator[None]:
    """What is imported and loaded lives on: looking for garbage in it costs a tenth of a start, and later pauses."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class HostedEngine(EngineClient):
    """One model. One that cannot be loaded is reported to callers, and does not take other models down.

    Args:
        settings: of the model.
        config: of the deployment.
        load: makes the engine.

    Attributes:
        engine: None where the model could not be loaded.
        failure: why.
        started: when, by the monotonic clock.
    """

    def __init__(
        self,
        settings: ModelSettings,
        config: Config,
        load: Callable[[ModelSettings, Config], "Engine | VllmEngine"] = load_engine,
    ) -> None:
        self.engine: Engine | VllmEngine | None = None
        self.failure: NeurodialError | None = None
        self.started = time.monotonic()
        try:
            with _without_collection():
                self.engine = load(settings, config)
        except NeurodialError as error:
            self.failure = error
        except Exception as error:  # whatever a model's files make a library raise
            logger.exception("model %s could not be loaded", settings.id)
            reason = (str(error).strip().splitlines() or [""])[0][:300]
            self.failure = Unavailable(f"model {settings.id} could not be loaded: {type(error).__name__}: {reason}")

    async def info(self) -> EngineInfo:
        """The model and its neuron sets.

        Raises:
            NeurodialError: why the model could not be loaded.
        """
        return self._running().info

    async def stats(self) -> EngineStats:
        """How the engine is doing."""
        if self.failure is not None:
            return EngineStats("failed", 0, 0, 0.0, num_ready=0)
        return self._running().stats()

    async def generate(self, requests: tuple[EngineRequest, ...]) -> AsyncGenerator[Events, None]:
        """Serves requests; see `EngineClient.generate`."""
        async with aclosing(self._client().generate(requests)) as arriving:
            async for events in arriving:
                yield events

    async def call(self, method: Method, *args: Any, **options: Any) -> Any:
        """See `EngineClient.call`."""
        return await self._client().call(method, *args, **options)

    def close(self, seconds: float) -> None:
        """Stops the engine's thread, for which it waits so long."""
        if self.engine is not None:
            self.engine.close(seconds)

    def _client(self) -> EngineClient:
        engine = self._running()
        return LocalClient(engine) if isinstance(engine, Engine) else engine.client

    def _running(self) -> "Engine | VllmEngine":
        if self.engine is None:
            raise self.failure or Unavailable("the engine is not running")
        return self.engine
