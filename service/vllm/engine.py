"""An engine of vLLM's behind `EngineClient`: what a replica serves with `engine: vllm`."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from prometheus_client.metrics_core import Metric

from neurodial.control.artifacts.catalogue import SetSource
from neurodial.control.errors import BadInput, EngineGone, InternalError, ModelError, NeurodialError, Overloaded
from neurodial.service.engine.client import EngineClient, Method
from neurodial.service.engine.handle import Handle, events_of
from neurodial.service.engine.metrics import EngineMetrics
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import too_late
from neurodial.service.engine.types import NOTHING_APPLIED, EngineInfo, EngineState, EngineStats, Events
from neurodial.service.vllm.admission import Admission, report_of, salt_of, structure_of
from neurodial.service.vllm.plugin import put_under_control
from neurodial.service.vllm.reading import VllmReader
from neurodial.service.vllm.settings import KEY, TableSettings, VllmSettings
from neurodial.service.vllm.support import check_version

_TAKEN_S = 60.0  # that a proof may take: a step or two


class VllmEngine:
    """One model in vLLM.

    Args:
        path: a checkpoint folder, or a model's name on a hub.
        sets: where neuron sets that requests name are looked up.
        tables: what controls may ask for.
        options: of vLLM's engine, such as `tensor_parallel_size`.
        max_running: requests that run at once.
        max_waiting: requests that may wait beside them.
        stuck_after_s: without an output for so long while requests run, the engine is unhealthy.
        **reading: of `RequestReader`.

    Attributes:
        info: the model and its neuron sets.
        client: the engine, seen from the application.

    Raises:
        ConfigError, ModelError: if vLLM cannot serve the model under control; the message says why.
    """

    def __init__(
        self,
        path: str,
        sets: SetSource,
        *,
        tables: TableSettings | None = None,
        options: Mapping[str, Any] | None = None,
        max_running: int = 32,
        max_waiting: int = 512,
        stuck_after_s: float = 120.0,
        **reading: Any,
    ) -> None:
        check_version()
        tables = tables or TableSettings()
        loaded = structure_of(path, with_tokenizer=True)
        config = _configured(path, tables, {"max_num_seqs": max_running} | dict(options or {}))
        admission = Admission(loaded, VllmSettings.model_validate(tables.model_dump()), config, sets=sets)
        self._reader = VllmReader(loaded, sets, config, check=admission.check, **reading)
        self.info: EngineInfo = self._reader.info
        self.client = VllmClient(self, self._reader)
        self._llm = _started(config)
        self._metrics = EngineMetrics(self.info.model)
        self._max_running, self._most = max_running, max_running + max_waiting
        self._stuck_after_s, self._heartbeat = stuck_after_s, time.monotonic()
        self._running: dict[str, asyncio.Task[None]] = {}

    def submit(self, sequences: list[Sequence]) -> None:
        """Begins to serve sequences, all or none; on the event loop.

        Raises:
            Overloaded: if too many wait.
            EngineGone: if vLLM has died.
        """
        if self._llm.errored:
            raise EngineGone("the engine is not running", hint="try again in a moment")
        if len(self._running) + len(sequences) > self._most:
            raise Overloaded("too many requests wait", hint="try again in a moment")
        if not self._running:
            self._heartbeat = time.monotonic()
        for sequence in sequences:
            task = asyncio.get_running_loop().create_task(self._serve(sequence))
            self._running[sequence.request.id] = task

    def cancel(self, request_id: str) -> None:
        """Gives a request up."""
        if (task := self._running.get(request_id)) is not None:
            task.cancel()

    def refused(self, error: NeurodialError, count: int) -> None:
        """Counts requests that were not admitted."""
        self._metrics.refused(error, count)

    def stats(self) -> EngineStats:
        """How the engine is doing."""
        busy = len(self._running)
        age = time.monotonic() - self._heartbeat if busy else 0.0
        state: EngineState = "dead" if self._llm.errored else "stuck" if age > self._stuck_after_s else "ready"
        running = min(busy, self._max_running)
        return EngineStats(state, busy - running, running, round(age, 3), num_ready=int(state == "ready"))

    def metrics(self) -> list[Metric]:
        """All that the engine has measured since its start, and how it is doing now."""
        stats = self.stats()
        return self._metrics.snapshot_of(stats, stats.num_running, 0.0)

    def close(self, timeout: float = 10.0) -> None:
        """Stops vLLM's processes."""
        self._llm.shutdown(timeout)

    async def _serve(self, sequence: Sequence) -> None:
        try:
            async with asyncio.timeout(sequence.request.timeout_s):
                await self._generate(sequence)
        except TimeoutError:
            sequence.fail(too_late(sequence))
        except asyncio.CancelledError:
            sequence.finish("cancelled")
        except NeurodialError as error:
            sequence.fail(error)
        except Exception as error:
            sequence.fail(self._reason(error))
        finally:
            self._running.pop(sequence.request.id, None)
            self._metrics.ended(sequence)

    def _reason(self, error: Exception) -> NeurodialError:
        from vllm.exceptions import VLLMClientError

        if isinstance(error, VLLMClientError):
            return BadInput(str(error))
        if self._llm.errored:
            return EngineGone("vLLM has died", hint="try again in a moment")
        return InternalError(f"vLLM: {type(error).__name__}: {error}")

    async def _generate(self, sequence: Sequence) -> None:
        prepared, key = sequence.prepared, sequence.request.id
        prompt: dict[str, Any] = {"prompt_token_ids": list(prepared.prompt_ids)}
        if prepared.plan is not None:
            prompt["cache_salt"] = salt_of(prepared.plan, len(prepared.prompt_ids))
        params = self._reader.sampling(sequence)
        reason, is_first, written = None, True, 0
        async with aclosing(self._llm.generate(prompt, params, key)) as outputs:
            async for output in outputs:
                self._heartbeat = time.monotonic()
                part = output.outputs[0]
                if part.finish_reason == "error":
                    raise await self._failure(sequence, key)
                self._metrics.wrote(len(part.token_ids))
                for place, token in enumerate(part.token_ids):
                    told = part.logprobs[place] if part.logprobs else None
                    written += 1
                    if reason := sequence.push(token, self._reader.logprob_of(sequence, token, told)):
                        break
                if is_first:
                    self._metrics.joined([sequence], self._heartbeat)
                    is_first = False
                if reason:
                    break
        applied = NOTHING_APPLIED
        if prepared.plan is not None:
            applied = report_of(prepared.plan, (await self._take(key, written))["done"])
        sequence.finish(reason or "length", applied)

    async def _failure(self, sequence: Sequence, key: str) -> NeurodialError:
        """Why a request failed in the workers."""
        failed = (await self._take(key, 0))["failed"] if sequence.prepared.plan is not None else None
        if failed is None:
            return InternalError("vLLM gave this request up", hint="see the server's log")
        code, message = failed
        if code == Overloaded.code:
            return Overloaded(message, hint="try again in a moment")
        return InternalError(message, hint="a smaller value or strength")

    async def _take(self, key: str, tokens: int) -> dict[str, Any]:
        answers = await self._llm.collective_rpc("neurodial_take", timeout=_TAKEN_S, args=(key, tokens))
        failed = next((answer["failed"] for answer in answers if answer["failed"]), None)
        return {"done": answers[0]["done"], "failed": failed}


class VllmClient(EngineClient):
    """vLLM's engine, in this process."""

    def __init__(self, engine: VllmEngine, reader: VllmReader) -> None:
        self._engine, self._reader = engine, reader

    async def info(self) -> EngineInfo:
        """The model and its neuron sets."""
        return self._engine.info

    async def stats(self) -> EngineStats:
        """How the engine is doing."""
        return self._engine.stats()

    async def generate(self, requests: tuple[EngineRequest, ...]) -> AsyncGenerator[Events, None]:
        """Serves requests; see `EngineClient.generate`."""
        try:
            sequences = await asyncio.to_thread(lambda: [self._sequence(request) for request in requests])
            self._engine.submit(sequences)
        except NeurodialError as error:
            self._engine.refused(error, len(requests))
            raise
        handles = [sequence.handle for sequence in sequences]
        try:
            async for events in events_of(handles):
                yield events
        finally:
            for handle in handles:
                handle.cancel()

    async def call(self, method: Method, *args: Any, **options: Any) -> Any:
        """Asks the reader, which has the methods of `EngineClient`, away from the event loop."""
        return await asyncio.to_thread(getattr(self._reader, method), *args, **options)

    def _sequence(self, request: EngineRequest) -> Sequence:
        arrived = time.monotonic()
        prepared = self._reader.prepare(request)
        return Sequence(request, prepared, Handle(request.id, self._engine.cancel), self._reader.decode, arrived)


def _configured(path: str, tables: TableSettings, options: dict[str, Any]) -> Any:
    """VLLM's configuration of a model under control."""
    from vllm import AsyncEngineArgs

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    settings = tables.model_dump(mode="json", exclude_none=True)
    fixed = {"model": path, "skip_tokenizer_init": True, "additional_config": {KEY: settings}}
    if beside := sorted(fixed.keys() & options.keys()):
        raise ModelError(f"engine_options.{beside[0]}: Neurodial sets it itself")
    try:
        args = AsyncEngineArgs(**options, **fixed)
        config = args.create_engine_config()
    except (TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"engine_options: {said}", hint="the options are those of vLLM's engine") from None
    if reason := put_under_control(config):
        raise ModelError(f"{path} cannot be served with engine: vllm: {reason}", hint="engine: native")
    return config


def _started(config: Any) -> Any:
    """Starts vLLM, and waits until it can serve."""
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_vllm_config(config, disable_log_stats=True, enable_log_requests=False)
