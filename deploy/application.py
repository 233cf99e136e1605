"""The Ray Serve application: one ingress deployment in front of one engine deployment per model.

The only modules that import Ray are this one and `deploy.server`; both are imported when a server starts, not before.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from neurodial.control.controls import Control
from neurodial.control.errors import NeurodialError, Overloaded, Unavailable
from neurodial.deploy.config import Config, ModelSettings
from neurodial.service.app import create_app
from neurodial.service.engine.client import EngineClient, LocalClient, generate
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.primitives import EngineInfo, EngineStats, Event, Message, Request, SetInfo
from neurodial.service.limits import Limits
from neurodial.service.services import Services

logger = logging.getLogger(__name__)

QUIET_LOGS = LoggingConfig(enable_access_log=False, log_level="WARNING")

_INGRESS_ONGOING = 1000  # HTTP requests that one ingress holds; the engines' queues are the real limit
_HEALTH_PERIOD_S = 5.0


class EngineReplica:
    """One engine on one replica. A model that cannot be loaded is reported to callers, not retried for ever."""

    def __init__(self, settings: ModelSettings, limits: Limits, stuck_after_s: float) -> None:
        from neurodial.deploy.engines import build_engine  # brings torch, which the ingress does without

        self._engine: Engine | None = None
        self._failure: NeurodialError | None = None
        try:
            self._engine = build_engine(settings, limits, stuck_after_s)
        except NeurodialError as error:
            self._failure = error

    async def info(self) -> EngineInfo:
        """The model and its neuron sets.

        Raises:
            NeurodialError: why the model could not be loaded.
        """
        return self._ready().info

    async def stats(self) -> EngineStats:
        """How the engine is doing."""
        return self._ready().stats()

    async def generate(self, requests: tuple[Request, ...]) -> AsyncIterator[tuple[int, Event] | NeurodialError]:
        """Serves requests that belong together; a refusal is the only item then."""
        try:
            async with aclosing(generate(self._ready(), requests)) as events:
                async for item in events:
                    yield item
        except NeurodialError as error:
            yield error

    async def check_set(self, data: bytes) -> SetInfo:
        """See `EngineClient.check_set`."""
        return await LocalClient(self._ready()).check_set(data)

    async def validate(self, controls: tuple[Control, ...]) -> Mapping[str, Any]:
        """See `EngineClient.validate`."""
        return await LocalClient(self._ready()).validate(controls)

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True, messages: tuple[Message, ...] = ()
    ) -> tuple[tuple[int, str], ...]:
        """See `EngineClient.tokenize`."""
        client = LocalClient(self._ready())
        return await client.tokenize(text, add_special_tokens=add_special_tokens, messages=messages)

    async def detokenize(self, ids: tuple[int, ...]) -> str:
        """See `EngineClient.detokenize`."""
        return await LocalClient(self._ready()).detokenize(ids)

    def check_health(self) -> None:
        """Lets Ray restart a replica whose engine thread is dead or stuck.

        Raises:
            Unavailable: if it is.
        """
        if self._engine is not None and (state := self._engine.stats().state) != "ready":
            raise Unavailable(f"the engine is {state}")

    def __del__(self) -> None:
        """Stops the engine's thread."""
        if getattr(self, "_engine", None) is not None:
            self._ready().close()

    def _ready(self) -> Engine:
        if self._engine is None:
            raise self._failure or Unavailable("the engine is not running")
        return self._engine


class HandleClient:
    """An engine deployment, reached by its handle; see `EngineClient`."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def info(self) -> EngineInfo:
        """The model and its neuron sets."""
        result: EngineInfo = await _translated(self._handle.info.remote())
        return result

    async def stats(self) -> EngineStats:
        """How one replica's engine is doing."""
        result: EngineStats = await _translated(self._handle.stats.remote())
        return result

    async def generate(self, requests: tuple[Request, ...]) -> AsyncIterator[tuple[int, Event]]:
        """Serves requests on one replica; closing the iterator cancels them there."""
        events: Any = self._handle.options(stream=True).generate.remote(requests)
        try:
            async for item in events:
                if isinstance(item, NeurodialError):
                    raise item
                yield item
        except (RayError, RayServeException) as error:
            raise _translate(error) from error
        finally:
            events.cancel()

    async def check_set(self, data: bytes) -> SetInfo:
        """See `EngineClient.check_set`."""
        result: SetInfo = await _translated(self._handle.check_set.remote(data))
        return result

    async def validate(self, controls: tuple[Control, ...]) -> Mapping[str, Any]:
        """See `EngineClient.validate`."""
        result: Mapping[str, Any] = await _translated(self._handle.validate.remote(controls))
        return result

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True, messages: tuple[Message, ...] = ()
    ) -> tuple[tuple[int, str], ...]:
        """See `EngineClient.tokenize`."""
        answer = self._handle.tokenize.remote(text, add_special_tokens=add_special_tokens, messages=messages)
        result: tuple[tuple[int, str], ...] = await _translated(answer)
        return result

    async def detokenize(self, ids: tuple[int, ...]) -> str:
        """See `EngineClient.detokenize`."""
        result: str = await _translated(self._handle.detokenize.remote(ids))
        return result


async def _translated(response: Any) -> Any:
    try:
        return await response
    except (RayError, RayServeException) as error:
        raise _translate(error) from error


def _translate(error: Exception) -> NeurodialError:
    """Ray's errors as ours; an error of ours that crossed a process is found again as its cause."""
    cause = getattr(error, "cause", None)
    if isinstance(error, NeurodialError):
        return error
    if isinstance(cause, NeurodialError):
        return cause
    if isinstance(error, BackPressureError):
        return Overloaded("the engine's queue is full", hint="try again in a moment")
    if isinstance(error, RayActorError):
        return Unavailable("the engine died while it served this request", hint="try again")
    logger.error("an engine call failed", exc_info=error)
    return Unavailable(f"the engine cannot be reached ({type(error).__name__})", hint="try again")


@serve.ingress()
class Ingress:
    """The HTTP application in front of the engines."""

    def __init__(self, engines: dict[str, DeploymentHandle[Any]], limits: Limits) -> None:
        self._engines: dict[str, EngineClient] = {name: HandleClient(handle) for name, handle in engines.items()}
        self._limits = limits

    def __serve_build_asgi_app__(self) -> Any:
        """The ASGI application; Serve calls this once per replica."""
        return create_app(Services(self._engines, self._limits, echo_request_id=False))  # Serve does that itself


def build_application(config: Config) -> serve.Application:
    """Binds a configuration to deployments."""
    engines = {model.id: _engine_deployment(config, model) for model in config.models}
    ingress: Any = serve.deployment(
        Ingress,
        name="ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_INGRESS_ONGOING,
        graceful_shutdown_timeout_s=config.graceful_shutdown_s,
        logging_config=QUIET_LOGS,
    )
    bound: serve.Application = ingress.bind(engines, config.limits)
    return bound


def engine_name(model: ModelSettings) -> str:
    """The name of a model's deployment; Serve allows no slashes in it."""
    return f"engine-{model.id.replace('/', '-')}"


def _engine_deployment(config: Config, model: ModelSettings) -> serve.Application:
    deployment: Any = serve.deployment(
        EngineReplica,
        name=engine_name(model),
        num_replicas=model.replicas,
        ray_actor_options={"num_cpus": model.num_cpus, "num_gpus": model.gpus},
        max_ongoing_requests=model.max_waiting + model.max_batch,
        health_check_period_s=_HEALTH_PERIOD_S,
        graceful_shutdown_timeout_s=config.graceful_shutdown_s,
        logging_config=QUIET_LOGS,
    )
    bound: serve.Application = deployment.bind(model, config.limits, config.stuck_after_s)
    return bound
