"""Measured speed of a pruned model beside the original's: the two take turns, medians and quartiles of many rounds.

| Stage | Of | One round |
|---|---|---|
| `encode` | models with an encoder | a forward pass over `rows` × `tokens` tokens |
| `step` | models that generate | one decode step of `rows` sequences |
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Stack
from neurodial.control.models.loading import LoadedModel

WARM_UP = 3
STAGES: dict[str, Stack] = {"encode": "encoder", "step": "decoder"}


@torch.inference_mode()
def measure_speed(
    original: LoadedModel, pruned: LoadedModel, *, rows: int = 32, tokens: int = 16, rounds: int = 30
) -> dict[str, Any]:
    """Times both models, whole and in their FFNs alone.

    Args:
        original: the model before.
        pruned: and after.
        rows: sequences in the batch.
        tokens: of each source, or prompt.
        rounds: that are timed, after some to warm up.

    Returns:
        `rows`, `threads`, and for each stage `original_ms`, `pruned_ms`, their FFNs' `original_ffn_ms` and
        `pruned_ffn_ms` (median and quartiles), `speedup`, `ffn_speedup`, the FFN's `ffn_ideal` by its widths and
        `ffn_efficiency`, their ratio; and `tokens_per_s` of both, by the medians.
    """
    models = {"original": original, "pruned": pruned}
    rounds = min(rounds, max(1, (_positions(original) - tokens) // 2 - WARM_UP))  # each round makes two steps
    running = {name: _stages(loaded, rows, tokens) for name, loaded in models.items()}
    report: dict[str, Any] = {"rows": rows, "rounds": rounds, "threads": torch.get_num_threads()}
    for stage in running["original"]:
        times: dict[str, list[float]] = {f"{name}{part}_ms": [] for name in models for part in ("", "_ffn")}
        for number in range(WARM_UP + rounds):
            for name in sorted(models, reverse=bool(number % 2)):
                whole = _timed(models[name], running[name][stage])
                with _ffn_clock(models[name], STAGES[stage]) as ffn:
                    running[name][stage]()
                if number >= WARM_UP:
                    times[f"{name}_ms"].append(1000 * whole)
                    times[f"{name}_ffn_ms"].append(1000 * sum(ffn))
        done = rows * tokens if stage == "encode" else rows  # tokens of a round
        rates = {name: round(1000 * done / max(float(np.median(times[f"{name}_ms"])), 1e-6), 1) for name in models}
        report[stage] = _summary(times) | _ffn_ratio(original, pruned, STAGES[stage], times) | {"tokens_per_s": rates}
    return report


def _positions(loaded: LoadedModel) -> int:
    """Tokens that fit into the model; as many as one likes where it does not say."""
    config = loaded.model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 2**31)


def _stages(loaded: LoadedModel, rows: int, tokens: int) -> dict[str, Callable[[], object]]:
    """What is timed of a model; a decode step leaves its cache one longer."""
    model: Any = loaded.model
    draw = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(0, vocabulary, (rows, tokens), generator=draw).to(model.device)
    mask = torch.ones_like(ids)
    if loaded.family == "encoder-only":
        return {"encode": lambda: model(input_ids=ids, attention_mask=mask)}
    last = ids[:, :1]
    if loaded.family == "decoder-only":
        cache = model(input_ids=ids, use_cache=True).past_key_values
        return {"step": lambda: model(input_ids=last, past_key_values=cache, use_cache=True)}
    encoder = model.get_encoder()
    seen = encoder(input_ids=ids, attention_mask=mask)
    source = {"encoder_outputs": seen, "attention_mask": mask, "decoder_input_ids": last, "use_cache": True}
    past = model(**source).past_key_values
    return {
        "encode": lambda: encoder(input_ids=ids, attention_mask=mask),
        "step": lambda: model(**source, past_key_values=past),
    }


def _now(loaded: LoadedModel) -> float:
    if loaded.model.device.type == "cuda":
        torch.cuda.synchronize(loaded.model.device)
    return perf_counter()


def _timed(loaded: LoadedModel, run: Callable[[], object]) -> float:
    begun = _now(loaded)
    run()
    return _now(loaded) - begun


@contextmanager
def _ffn_clock(loaded: LoadedModel, stack: Stack) -> Iterator[list[float]]:
    """Seconds of each FFN inside the block, from its first matrix to the end of its last."""
    seconds: list[float] = []
    begun = [0.0]

    def start(*_: Any) -> None:
        begun[0] = _now(loaded)

    def stop(*_: Any) -> None:
        seconds.append(_now(loaded) - begun[0])

    with ExitStack() as hooks:
        for layer in loaded.sites.layers.get(stack, ()):
            if layer.row.ffn is not None:
                hooks.callback(layer.part(layer.row.ffn.into[0]).register_forward_pre_hook(start).remove)
                hooks.callback(layer.part(layer.row.ffn.out).register_forward_hook(stop).remove)
        yield seconds


def _summary(times: dict[str, list[float]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name, values in times.items():
        low, middle, high = np.percentile(values, [25, 50, 75])
        summary[name] = {"median": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}
    return summary | {"speedup": _ratio(times["original_ms"], times["pruned_ms"])}


def _ratio(before: list[float], after: list[float]) -> float:
    return round(float(np.median(before) / max(float(np.median(after)), 1e-9)), 4)


def _ffn_ratio(
    original: LoadedModel, pruned: LoadedModel, stack: Stack, times: dict[str, list[float]]
) -> dict[str, float]:
    before, after = (sum(info.width for info in loaded.sites.of(stack, "ffn")) for loaded in (original, pruned))
    if not after:
        return {}
    ideal, measured = before / after, _ratio(times["original_ffn_ms"], times["pruned_ffn_ms"])
    return {"ffn_speedup": measured, "ffn_ideal": round(ideal, 4), "ffn_efficiency": round(measured / ideal, 4)}
