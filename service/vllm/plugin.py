"""vLLM's entry point `vllm.general_plugins`: control in plain `vllm serve`, offline, and in Ray Serve LLM."""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

from neurodial.control.errors import ConfigError, NeurodialError
from neurodial.service.version import package_version
from neurodial.service.vllm import seams
from neurodial.service.vllm.admission import Admission, payload, report_of, salt_of, structure_of
from neurodial.service.vllm.settings import KEY, read_settings
from neurodial.service.vllm.support import check_version, why_not

FIELD = "controls"  # in `vllm_xargs`, and in a SamplingParams' `extra_args`
_WORKERS = {
    "vllm.v1.worker.cpu_worker.CPUWorker": "neurodial.service.vllm.worker.CPUWorker",
    "vllm.v1.worker.gpu_worker.Worker": "neurodial.service.vllm.worker.GPUWorker",
}
_SCHEDULING = "neurodial.service.vllm.scheduling"


def register() -> None:
    """Runs in every process of vLLM; `NEURODIAL_VLLM=0` leaves vLLM as it is.

    Raises:
        ConfigError: if vLLM is not of the supported range, or has changed where the plugin meets it.
    """
    if os.environ.get("NEURODIAL_VLLM") == "0":
        return
    check_version()
    for seam in seams.SEAMS:
        seams.check(seam)
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.input_processor import InputProcessor

    _wrap(EngineArgs, "create_engine_config", _configuring)
    _wrap(InputProcessor, "process_inputs", _admitting)
    _wrap(AsyncLLM, "generate", _proving)
    for protocol in (CompletionRequest, ChatCompletionRequest, ResponsesRequest):
        _wrap(protocol, "to_sampling_params", _passing_on)
    for protocol in (CompletionRequest, ChatCompletionRequest):
        _wrap(protocol, "to_beam_search_params", _refusing_beams)


def put_under_control(config: Any) -> str | None:
    """Has a configuration of vLLM's use our worker and scheduler, and keeps its compiled models apart.

    Returns:
        Why not, where controls cannot be served exactly: the configuration is as it was.

    Raises:
        ConfigError: if the settings in it are wrong.
    """
    read_settings(config.additional_config.get(KEY))
    parallel, scheduling = config.parallel_config, config.scheduler_config
    reason = why_not(config)
    if reason is None and parallel.worker_cls not in (*_WORKERS, *_WORKERS.values()):
        reason = f"the worker {parallel.worker_cls!r} is not vLLM's own"
    if reason is None and scheduling.scheduler_cls is not None and not _is_ours(scheduling.scheduler_cls):
        reason = f"the scheduler {scheduling.scheduler_cls!r} is not vLLM's own"
    if reason is None:
        parallel.worker_cls = _WORKERS.get(parallel.worker_cls, parallel.worker_cls)
        name = "ControlledAsyncScheduler" if scheduling.async_scheduling else "ControlledScheduler"
        scheduling.scheduler_cls = f"{_SCHEDULING}.{name}"
        given = config.additional_config.get(KEY) or {}
        config.additional_config = {**config.additional_config, KEY: given, f"{KEY}-version": package_version()}
    return reason


def admission_for(config: Any) -> Admission:
    """What compiles controls for an engine of vLLM's.

    Raises:
        ConfigError: if the engine's configuration cannot be controlled; the message says why.
    """
    if not _is_ours(config.scheduler_config.scheduler_cls):
        raise ConfigError(
            f"controls cannot be served here: {why_not(config) or 'a worker or scheduler is not vLLMs own'}"
        )
    settings = read_settings(config.additional_config.get(KEY))
    return Admission(structure_of(config.model_config.model), settings, config)


def _is_ours(scheduler: object) -> bool:
    return isinstance(scheduler, str) and scheduler.startswith(_SCHEDULING)


def _wrap(owner: Any, name: str, around: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    if not hasattr(original, "neurodial"):  # vLLM may call plugins several times
        wrapper: Any = wraps(original)(around(original))
        wrapper.neurodial = True
        setattr(owner, name, wrapper)


def _configuring(original: Any) -> Any:
    def create_engine_config(self: Any, *args: Any, **options: Any) -> Any:
        config = original(self, *args, **options)
        put_under_control(config)
        return config

    return create_engine_config


def _admitting(original: Any) -> Any:
    def process_inputs(self: Any, *args: Any, **options: Any) -> Any:
        request = original(self, *args, **options)
        params = request.sampling_params or request.pooling_params
        extra = getattr(params, "extra_args", None) or {}
        if KEY in extra and not isinstance(extra[KEY], dict):  # a client's: JSON in `vllm_xargs` holds no mappings
            raise _refusal(f"vllm_xargs.{KEY}: there is no such argument; controls are in {FIELD!r}", FIELD)
        if FIELD in extra:
            if request.sampling_params is None:
                raise _refusal(f"{FIELD}: this request does not generate", FIELD)
            if request.resumable:
                raise _refusal(f"{FIELD}: not for a request whose prompt goes on", FIELD)
            _admit(self, request, extra)
        return request

    return process_inputs


def _admit(processor: Any, request: Any, extra: dict[str, Any]) -> None:
    try:
        admission = processor.__dict__.get("_neurodial") or admission_for(processor.vllm_config)
        processor._neurodial = admission
        compiled = admission.read(extra[FIELD])
    except NeurodialError as error:
        said = f"{error.message} ({error.hint})" if error.hint else error.message
        raise _refusal(said, error.param or FIELD) from None
    kept = {name: value for name, value in extra.items() if name != FIELD}
    request.sampling_params.extra_args = kept
    if compiled is not None:
        kept[KEY] = payload(compiled, request.request_id)
        length = len(request.prompt_token_ids or ()) or len(request.prompt_embeds)
        request.cache_salt = f"{request.cache_salt or ''}|{salt_of(compiled, length)}"


def _proving(original: Any) -> Any:
    async def generate(
        self: Any, prompt: Any, sampling_params: Any, request_id: str, *args: Any, **options: Any
    ) -> AsyncGenerator[Any, None]:
        has_controls = bool((getattr(sampling_params, "extra_args", None) or {}).get(FIELD))
        tokens: dict[int, int] = {}
        async with aclosing(original(self, prompt, sampling_params, request_id, *args, **options)) as outputs:
            async for output in outputs:
                for part in output.outputs:
                    before = tokens.get(part.index, 0) if sampling_params.output_kind.name == "DELTA" else 0
                    tokens[part.index] = before + len(part.token_ids)
                if has_controls and output.finished:
                    compiled = self.input_processor._neurodial.read(sampling_params.extra_args[FIELD])
                    (taken, *_) = await self.collective_rpc(
                        "neurodial_take", args=(request_id, max(tokens.values(), default=0))
                    )
                    told = report_of(compiled, taken["done"]) if compiled else None
                    output.kv_transfer_params = {**(output.kv_transfer_params or {}), KEY: told}
                yield output

    return generate


def _passing_on(original: Any) -> Any:
    """Takes `controls` beside `vllm_xargs`, too, as our own server has them: vLLM leaves out what it does not know."""

    def to_sampling_params(self: Any, *args: Any, **options: Any) -> Any:
        params = original(self, *args, **options)
        if FIELD in (self.model_extra or {}):
            params.extra_args = {**(params.extra_args or {}), FIELD: self.model_extra[FIELD]}
        return params

    return to_sampling_params


def _refusing_beams(original: Any) -> Any:
    def to_beam_search_params(self: Any, *args: Any, **options: Any) -> Any:
        if FIELD in {*(self.vllm_xargs or {}), *(self.model_extra or {})}:
            raise _refusal(f"{FIELD}: not with beam search in vLLM", "use_beam_search")
        return original(self, *args, **options)

    return to_beam_search_params


def _refusal(message: str, field: str) -> Exception:
    from vllm.exceptions import VLLMValidationError

    error: Exception = VLLMValidationError(message, parameter=field)
    return error
