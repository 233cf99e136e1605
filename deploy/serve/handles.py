"""Engines on other machines: calls through Ray's handles, and one more try where a replica died."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any

from grpc import StatusCode
from grpc.aio import AioRpcError
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from neurodial.control.errors import EngineGone, NeurodialError, Overloaded, Unavailable
from neurodial.service.engine.client import EngineClient, Method
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import EngineInfo, EngineStats, Events, Failed, Tokens

logger = logging.getLogger(__name__)

_SEVERITY = ("ready", "failed", "stuck", "dead")
_INFO_TIMEOUT_S = 10.0
_STATS_TIMEOUT_S = 2.0  # for all replicas; less than the application waits for its engines' states

# What a call can raise besides our own errors: Ray's, or gRPC's where Serve's deployments speak that with one another.
CALL_ERRORS = (RayError, RayServeException, AioRpcError)
_GONE = frozenset({StatusCode.UNAVAILABLE, StatusCode.CANCELLED})  # the process has ended, or its server is closing


class HandleClient(EngineClient):
    """An engine deployment, reached by its handle; see `EngineClient`.

    Args:
        handle: of the deployment.
        min_replicas: so many replicas it should have at least.
        retried: is told how many requests go to another replica, each time that some do.
    """

    def __init__(
        self, handle: DeploymentHandle[Any], min_replicas: int = 1, retried: Callable[[int], None] | None = None
    ) -> None:
        self._handle = handle
        self._min_replicas = min_replicas
        self._retried = retried or (lambda _: None)
        self._info: EngineInfo | None = None

    async def info(self) -> EngineInfo:
        """The model and its neuron sets; asked for once, since they are the deployment's for good.

        Raises:
            NeurodialError: why the model could not be loaded, or that no replica has answered yet.
        """
        if self._info is None:
            try:
                info: EngineInfo = await asyncio.wait_for(self._call("info"), _INFO_TIMEOUT_S)
            except TimeoutError:
                raise Unavailable("the model is being loaded", hint="try again in a moment") from None
            self._info = info
        return self._info

    async def stats(self) -> EngineStats:
        """How the engines of all replicas are doing, taken together."""
        try:
            states = await self._handle.broadcast("stats").results_async(
                timeout_s=_STATS_TIMEOUT_S, return_exceptions=True
            )
        except TimeoutError:  # one does not answer at all; Serve sends a call to one that does
            states = [await self._call("stats"), None]
        except CALL_ERRORS as error:
            raise translated(error) from error
        answers = [state if isinstance(state, EngineStats) else None for state in states]
        return together(answers, self._min_replicas)

    async def call(self, method: Method, *args: Any, **options: Any) -> Any:
        """Asks one replica; see `EngineClient.call`."""
        return await self._call("call", method, *args, **options)

    async def generate(self, requests: tuple[EngineRequest, ...]) -> AsyncGenerator[Events, None]:
        """Serves requests on one replica; closing the iterator cancels them there.

        Where that replica dies, the requests that have not ended and of which no token has gone out are served by
        another one, once. Those that had begun fail after the others have ended.
        """
        unfinished = dict(enumerate(requests))
        begun: set[int] = set()
        lost: dict[int, Failed] = {}
        for is_last in (False, True):
            if is_last:
                logger.warning("a replica died; %d of %d requests go to another", len(unfinished), len(requests))
                self._retried(len(unfinished))
            places = tuple(unfinished)
            try:
                async with aclosing(self._attempt(tuple(unfinished.values()))) as arriving:
                    async for answer in arriving:
                        events = [(places[place], event) for place, event in answer]
                        for index, event in events:
                            if isinstance(event, Tokens):
                                begun.add(index)
                            else:
                                del unfinished[index]
                        yield events
            except EngineGone as error:
                if is_last or unfinished.keys() <= begun:
                    raise
                lost |= {index: Failed(error) for index in unfinished.keys() & begun}
                unfinished = {index: request for index, request in unfinished.items() if index not in begun}
            if not unfinished:
                break
        if lost:
            yield list(lost.items())

    async def _attempt(self, requests: tuple[EngineRequest, ...]) -> AsyncGenerator[Events, None]:
        """One call: of a generator where somebody wants tokens on the way, else a plain one, which is cheaper."""
        is_streamed = any(request.stream for request in requests)
        call: Any = (self._pieces if is_streamed else self._whole).remote(requests)
        try:
            if not is_streamed:
                yield _accepted(await call)
                return
            async for answer in call:
                yield _accepted(answer)
        except CALL_ERRORS as error:
            raise translated(error) from error
        except BaseException:  # nobody waits any more
            call.cancel()
            raise

    @cached_property
    def _whole(self) -> DeploymentHandle[Any]:
        return self._handle.options(method_name="generate_whole")

    @cached_property
    def _pieces(self) -> DeploymentHandle[Any]:
        return self._handle.options(method_name="generate", stream=True)

    async def _call(self, method: str, *args: Any, **options: Any) -> Any:
        """Calls a method on one replica; on another one if that dies."""
        call = getattr(self._handle, method)
        try:
            return await _result(call.remote(*args, **options))
        except EngineGone:
            self._retried(1)
            return await _result(call.remote(*args, **options))


def together(states: Sequence[EngineStats | None], min_replicas: int) -> EngineStats:
    """The states of a deployment's replicas as one: the worst of them, and how many are well.

    Args:
        states: of each replica; None for one that does not answer.
        min_replicas: so many there should be at least.
    """
    known = [state for state in states if state is not None]
    num_replicas = max(len(states), min_replicas)
    worst = max(known, key=lambda state: _SEVERITY.index(state.state), default=None)
    return EngineStats(
        state="unreachable" if worst is None or len(known) < num_replicas else worst.state,
        num_waiting=sum(state.num_waiting for state in known),
        num_running=sum(state.num_running for state in known),
        heartbeat_age_s=max((state.heartbeat_age_s for state in known), default=0.0),
        num_replicas=num_replicas,
        num_ready=sum(state.state == "ready" for state in known),
    )


async def _result(response: Any) -> Any:
    try:
        return await response
    except CALL_ERRORS as error:
        raise translated(error) from error


def _accepted(answer: Events | NeurodialError) -> Events:
    """What came back, unless that is a refusal."""
    if isinstance(answer, NeurodialError):
        raise answer
    return answer


def translated(error: Exception) -> NeurodialError:
    """Ray's errors as ours; an error of ours that crossed a process is found again as its cause."""
    cause = getattr(error, "cause", None)
    if isinstance(error, NeurodialError):
        return error
    if isinstance(cause, NeurodialError):
        return cause
    if isinstance(error, BackPressureError):
        return Overloaded("the engine's queue is full", hint="try again in a moment")
    is_gone = isinstance(error, AioRpcError) and error.code() in _GONE
    if is_gone or isinstance(error, RayActorError) or isinstance(cause, RayActorError):
        return EngineGone("the engine died while it served this request", hint="try again")
    logger.error("an engine call failed", exc_info=error)
    return Unavailable(f"the engine cannot be reached ({type(error).__name__})", hint="try again")
