"""Compiling the decoding step of a model, and proving it before it is used."""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from neurodial.control.errors import InternalError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.runtime.batch import BatchController
from neurodial.service.engine.model.forward.captured import CapturedStep
from neurodial.service.engine.model.forward.passes import CausalPasses, Step, TranslationPasses
from neurodial.service.engine.model.kv_cache import KVCache

logger = logging.getLogger(__name__)

_ROWS = (3, 1)  # one row is a graph of its own
_PROMPT = tuple(range(1, 6))
_STEPS = 6
_TOLERANCE = 1e-3  # of a logit: rounding in another order, for the few steps of the first batches


def capture(
    passes: CausalPasses | TranslationPasses,
    loaded: LoadedModel,
    controls: BatchController,
    backend: str | Callable[..., Any] = "inductor",
) -> None:
    """Has the passes make their steps by compiled graphs, where the model and the machine allow that.

    Where they do not, the log says why, and the steps stay eager.

    Args:
        passes: of the model.
        loaded: the model.
        controls: of its batches; no slot may hold any yet.
        backend: of torch.compile.
    """
    name, began = loaded.name, time.monotonic()
    if passes.direct is None or loaded.model.device.type != "cpu":
        what = "its architecture" if passes.direct is None else "a device other than the CPU"
        logger.warning("%s: %s has no compiled steps yet; they stay eager", name, what)
        return
    logger.info("%s: compiling the decoding step", name)
    captured = CapturedStep(passes.direct, loaded, controls, backend)
    try:
        with torch.inference_mode():
            for rows in _ROWS:
                _compile(captured, passes, rows)
    except Exception as error:  # there may be no compiler, or one that fails in a way of its own
        logger.warning("%s: the decoding step cannot be compiled and stays eager: %s", name, error)
        return
    passes.captured = captured
    logger.info("%s: compiled in %.0f s", name, time.monotonic() - began)


def _compile(captured: CapturedStep, passes: CausalPasses | TranslationPasses, rows: int) -> None:
    """Makes the graph for some rows.

    Raises:
        InternalError: if it does not do what the eager step does, or leaves a site out.
    """
    cache, slots = KVCache(), [0] * rows
    first = passes.prefill([_PROMPT] * rows, slots)
    cache.join(first.cache, first.lengths, first.sources, [1] * rows)
    tokens = torch.arange(1, rows + 1)
    for number in range(_STEPS):
        step = Step(None, slots, tokens, torch.tensor(cache.lengths), [number] * rows)
        expected = passes.step(step, cache)
        if number < _STEPS - 1:
            cache.commit()
    before = list(captured.visits)
    found = captured.compile(step.tokens, step.lengths, cache)
    if (found - expected).abs().max() > _TOLERANCE:
        raise InternalError("a compiled step's logits are not those of the eager one")
    if any(now - then != 1 for now, then in zip(captured.visits, before, strict=True)):
        raise InternalError("a compiled step does not pass every site once")
