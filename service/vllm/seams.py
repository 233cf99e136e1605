"""Every place where the plugin meets vLLM's inner workings: what is expected there, checked when the plugin starts.

A version of vLLM that has changed one of them is refused with its name, before it serves anything.
"""

import inspect
from dataclasses import dataclass
from importlib import import_module

from neurodial.control.errors import ConfigError


@dataclass(frozen=True)
class Seam:
    """One function of vLLM's.

    Attributes:
        module: where it is.
        name: of it there.
        parameters: that it must have.
        use: what for.
    """

    module: str
    name: str
    parameters: tuple[str, ...]
    use: str


_V1 = "vllm.v1"
_PROTOCOLS = (
    ("completion", "CompletionRequest"),
    ("chat_completion", "ChatCompletionRequest"),
    ("responses", "ResponsesRequest"),
)
SEAMS = (
    Seam("vllm.engine.arg_utils", "EngineArgs.create_engine_config", ("self",), "wrapped: worker, scheduler, tables"),
    Seam(
        f"{_V1}.engine.input_processor",
        "InputProcessor.process_inputs",
        ("self", "request_id", "prompt", "params", "resumable"),
        "wrapped: controls are compiled, cached blocks kept apart",
    ),
    Seam(
        f"{_V1}.engine.async_llm",
        "AsyncLLM.generate",
        ("self", "prompt", "sampling_params", "request_id"),
        "wrapped: the proof goes into the answer",
    ),
    Seam(
        f"{_V1}.engine.async_llm", "AsyncLLM.collective_rpc", ("self", "method", "args"), "called: asks for the proof"
    ),
    *(
        Seam(
            f"vllm.entrypoints.openai.{module}.protocol", f"{name}.to_sampling_params", ("self",), "wrapped: `controls`"
        )
        for module, name in _PROTOCOLS
    ),
    *(
        Seam(
            f"vllm.entrypoints.openai.{module}.protocol",
            f"{name}.to_beam_search_params",
            ("self",),
            "wrapped: a beam search drops a request's arguments, so that controls are refused there",
        )
        for module, name in _PROTOCOLS[:2]
    ),
    Seam(f"{_V1}.worker.gpu_worker", "Worker.load_model", ("self",), "overridden: sites are hooked"),
    Seam(f"{_V1}.worker.gpu_worker", "Worker.compile_or_warm_up_model", ("self",), "overridden: sites are probed"),
    Seam(
        f"{_V1}.worker.gpu_worker",
        "Worker.execute_model",
        ("self", "scheduler_output"),
        "overridden: requests come and go",
    ),
    Seam(
        f"{_V1}.worker.gpu_worker", "Worker.sample_tokens", ("self", "grammar_output"), "overridden: failures are named"
    ),
    Seam(
        f"{_V1}.worker.gpu_model_runner",
        "GPUModelRunner._model_forward",
        ("self",),
        "overridden: announces passes (V1)",
    ),
    Seam(
        f"{_V1}.worker.gpu_model_runner", "GPUModelRunner._dummy_run", ("self", "num_tokens"), "called: the probe (V1)"
    ),
    Seam(
        f"{_V1}.worker.gpu.model_states.interface",
        "ModelState.prepare_inputs",
        ("self", "input_batch", "req_states"),
        "overridden: announces passes (V2)",
    ),
    Seam(
        f"{_V1}.core.sched.scheduler",
        "Scheduler.update_from_output",
        ("self", "scheduler_output", "model_runner_output"),
        "overridden: ends requests that failed",
    ),
    Seam("vllm.utils.torch_utils", "direct_register_custom_op", ("op_name", "op_func", "mutates_args"), "called"),
)


def check(seam: Seam) -> None:
    """Makes sure that a seam is as expected.

    Raises:
        ConfigError: naming it.
    """
    found: object = import_module(seam.module)
    for part in seam.name.split("."):
        found = getattr(found, part, None)
    has = inspect.signature(found).parameters if callable(found) else {}
    missing = [name for name in seam.parameters if name not in has]
    if not callable(found) or missing:
        what = f"no parameter {missing[0]!r}" if missing and callable(found) else "not there"
        raise ConfigError(
            f"this vLLM's {seam.module}.{seam.name} is not what Neurodial's plugin expects: {what}",
            hint="install a version from the supported range, or leave the plugin out: NEURODIAL_VLLM=0",
        )
