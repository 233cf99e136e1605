"""What a distilled classifier costs beside the same task on all of the model's neurons."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from neurodial.control.distilled.classifier import DistilledClassifier
from neurodial.control.errors import ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.pruning.cost import cost
from neurodial.interpret.common.progress import progress

TEXTS = 128


def size_of(loaded: LoadedModel, itemsize: int) -> dict[str, int]:
    """Parameters, bytes in the checkpoint, and arithmetic for a token where the architecture's row tells it.

    Args:
        loaded: the model.
        itemsize: bytes of a number in its checkpoint.
    """
    numbers = sum(parameter.numel() for parameter in loaded.model.parameters())
    found = {"parameters": numbers, "bytes": numbers * itemsize}
    try:
        return found | {"flops_per_token": asdict(cost(loaded))["flops_per_token"]}
    except ModelError:
        return found


def measure_speed(
    full: DistilledClassifier, distilled: DistilledClassifier, texts: Sequence[str], rounds: int
) -> dict[str, Any]:
    """CPU seconds for the same texts, medians of rounds in turns.

    Args:
        full: the classifier of all of the stack's neurons.
        distilled: that of a few.
        texts: at most `TEXTS` of them are read.
        rounds: after one to warm up.
    """
    chosen = list(texts)[:TEXTS]
    named: dict[str, Callable[[], Any]] = {
        "full": lambda: full.predict_proba(chosen),
        "distilled": lambda: distilled.predict_proba(chosen),
    }
    taken: dict[str, list[float]] = {name: [] for name in named}
    with progress("Speed", rounds + 1) as advance:
        for number in range(rounds + 1):
            for name in sorted(named, reverse=bool(number % 2)):
                started = time.process_time()
                named[name]()
                if number:
                    taken[name].append(time.process_time() - started)
            advance(1)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return {
        "texts": len(chosen),
        "rounds": rounds,
        **{f"{name}_ms": round(1000 * seconds / len(chosen), 4) for name, seconds in medians.items()},
        "speedup": round(medians["full"] / max(medians["distilled"], 1e-9), 3),
    }
