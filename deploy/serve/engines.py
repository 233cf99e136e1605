"""From settings to a running engine, with or without Ray."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.catalogue import SetCatalogue, SetSource, StoredSets
from neurodial.control.distilled.head import is_distilled, load_head
from neurodial.control.models.loading import load_model
from neurodial.deploy.configuration.config import Config, parse_config
from neurodial.deploy.configuration.settings import ModelSettings
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.scheduler import Capacity
from neurodial.service.vllm.support import LAYERS, vllm_version

if TYPE_CHECKING:
    from neurodial.service.vllm.engine import VllmEngine

_CPU_CACHE_BYTES = 2**30  # vLLM would take nearly all of the machine's memory


def config_of_model(
    path: str, engine: str | None, sets: Mapping[str, str], *, host: str | None = None, port: int | None = None
) -> Config:
    """The configuration of one model that is served as it is.

    Args:
        path: a folder, or the name of a model on a hub.
        engine: `native` or `vllm`; None chooses vLLM for a decoder-only model on a GPU where it is installed.
        sets: neuron sets, name → file.
        host: to listen on.
        port: to listen on.

    Raises:
        ConfigError: if there is no such model or set.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = engine or ("vllm" if device == "cuda" and vllm_version() and _is_for_vllm(path) else "native")
    name = Path(path).resolve().name if Path(path).is_dir() else path
    model = {"id": name, "path": path, "engine": chosen, "device": device, "sets": dict(sets)}
    model |= {"dtype": "bfloat16"} if device == "cuda" else {}
    given = {key: value for key, value in {"host": host, "port": port}.items() if value is not None}
    return parse_config({"models": [model]} | given, name=path, base=Path.cwd())


def _is_for_vllm(path: str) -> bool:
    """Whether vLLM serves the model's architecture under control."""
    try:
        return AutoConfig.from_pretrained(path).model_type in LAYERS
    except (OSError, ValueError):
        return False  # that it cannot be read is told when it is loaded


def build_vllm(settings: ModelSettings, config: Config) -> "VllmEngine":
    """Starts vLLM with a model and its neuron sets.

    Raises:
        NeurodialError: if the model, a set or the calibration cannot be used.
    """
    from neurodial.service.vllm.engine import VllmEngine

    options = {"dtype": settings.dtype} | settings.engine_options
    if settings.device == "cpu" and not options.keys() & {"kv_cache_memory_bytes", "gpu_memory_utilization"}:
        options["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    if settings.ranks > 1:
        options |= {"distributed_executor_backend": "ray"}  # in the places that Serve has reserved beside the replica
    return VllmEngine(
        settings.path,
        _sets(settings, config),
        tables=settings.tables,
        options=options,
        max_running=settings.max_batch,
        max_waiting=settings.max_waiting,
        stuck_after_s=config.stuck_after_s,
        **_reading(settings, config),
    )


def build_engine(settings: ModelSettings, config: Config) -> Engine:
    """Loads a model with its neuron sets and starts its engine; published sets come from the store, where there is one.

    Raises:
        NeurodialError: if the model, a set or the calibration cannot be used.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    loaded = load_model(settings.path, device=settings.device, dtype=settings.dtype)
    runner = RequestProcessor(
        loaded,
        _sets(settings, config),
        max_rows=settings.max_batch,
        head=load_head(settings.path, loaded) if is_distilled(settings.path) else None,
        **_reading(settings, config),
        compiles=settings.compile,
    )
    capacity = Capacity(
        max_rows=settings.max_batch,
        max_waiting=settings.max_waiting,
        prefill_tokens=settings.max_prefill_tokens,
        cache_tokens=settings.max_cache_tokens,
        values=config.limits.max_activations,
    )
    return Engine(runner, capacity, stuck_after_s=config.stuck_after_s)


def _reading(settings: ModelSettings, config: Config) -> dict[str, Any]:
    """How requests are read, whatever engine serves them."""
    limits = config.limits
    return {
        "model_id": settings.id,
        "default_max_tokens": limits.default_max_tokens or limits.max_tokens,
        "allow_changed_weights": settings.allow_changed_weights,
        "calibration": Calibration.load(settings.calibration) if settings.calibration else None,
        "max_deviations": settings.max_deviations,
        "max_prompt_tokens": limits.max_prompt_tokens,
        "max_neurons": limits.max_neurons,
        "max_set_bytes": limits.max_set_bytes,
        "languages": settings.languages,
    }


def _sets(settings: ModelSettings, config: Config) -> SetSource:
    fixed = SetCatalogue.from_files(settings.sets)
    return fixed if config.store is None else StoredSets(config.store.open().read, fixed=fixed)
