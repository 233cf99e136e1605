"""A decode step that can be repeated from the same cache, and timing several ways of taking it side by side.

Imports nothing of Neurodial: peers' environments run it too.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

Step = Callable[[], Any]
Variant = Callable[[], AbstractContextManager[Step]]


class DecodeStep:
    """One forward pass for one new token in every row, on a cache that is as long as before at every call.

    Args:
        model: a causal or an encoder–decoder model.
        context: (rows, tokens) ids that are in the cache already.
        new: (rows, 1) ids.
        source: (rows, source tokens) ids that an encoder–decoder's encoder has read.
    """

    def __init__(
        self, model: Any, context: torch.Tensor, new: torch.Tensor, source: torch.Tensor | None = None
    ) -> None:
        self.model = model
        ids, seen = {"input_ids": context}, torch.ones(context.shape[0], context.shape[1] + 1, dtype=torch.long)
        self._arguments: dict[str, Any] = {"input_ids": new, "attention_mask": seen}
        if source is not None:
            mask = torch.ones_like(source)
            ids = {"input_ids": source, "attention_mask": mask, "decoder_input_ids": context}
            self._arguments = {"decoder_input_ids": new, "attention_mask": mask}
        with torch.inference_mode():
            output = model(**ids, use_cache=True)
        if source is not None:
            encoded = BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)
            self._arguments["encoder_outputs"] = encoded
        self._cache = output.past_key_values
        growing = getattr(self._cache, "self_attention_cache", self._cache)
        self._layers = [(layer, layer.keys, layer.values) for layer in growing.layers]

    def arguments(self) -> dict[str, Any]:
        """What to call the model with; takes back what the last call added to the cache."""
        for layer, keys, values in self._layers:
            layer.keys, layer.values = keys, values
        return self._arguments | {"past_key_values": self._cache, "use_cache": True}

    def __call__(self) -> torch.Tensor:
        """Logits (rows, 1, vocabulary)."""
        with torch.inference_mode():
            logits: torch.Tensor = self.model(**self.arguments()).logits
        return logits


def interleave(
    variants: Mapping[str, Variant], *, rounds: int, seconds: float, steps: int = 3
) -> list[dict[str, float]]:
    """Times the variants in turns, in an order that is drawn anew for every round.

    Args:
        variants: name → a context manager that yields the function to time; entering and leaving is not timed.
        rounds: at least so many.
        seconds: goes on for at least so long.
        steps: timed in a row after one that is not; their median is the round's time.

    Returns:
        One dictionary a round: name → seconds a step.
    """
    draw = random.Random(0)
    measured: list[dict[str, float]] = []
    until = time.perf_counter() + seconds
    gc.disable()
    gc.freeze()  # what is there already need not be looked through again
    try:
        while len(measured) <= rounds or time.perf_counter() < until:  # the first round warms up
            order = draw.sample(list(variants), len(variants))
            measured.append({name: _time(variants[name], steps) for name in order})
            gc.collect()
    finally:
        gc.unfreeze()
        gc.enable()
    return measured[1:]


def _time(variant: Variant, steps: int) -> float:
    taken = []
    with variant() as step:
        step()
        for _ in range(steps):
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def summary(rounds: Sequence[Mapping[str, float]], name: str, baseline: str) -> dict[str, Any]:
    """Median and quartiles of a variant's milliseconds and of its ratio to the baseline in the same round."""
    return {
        "ms": _quartiles([1000 * r[name] for r in rounds], 3),
        "ratio": _quartiles([r[name] / r[baseline] for r in rounds], 4),
    }


def _quartiles(values: Sequence[float], digits: int) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, digits), "q1": round(low, digits), "q3": round(high, digits)}
