"""NeuroX on the same work, run by the interpreter of an environment of its own: `python -m … FOLDER TASK`.

Imports nothing of Neurodial. NeuroX is used as it comes; what it prints goes nowhere. Times are of the processor.
"""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        start = time.process_time()
        result = work()
        return result, time.process_time() - start


def extraction(folder: Path) -> dict[str, Any]:
    """Every layer of the model at every word of `texts.txt`, written to HDF5; loading the model is taken off."""
    module = import_module("neurox.data.extraction.transformers_extractor")
    model = str(folder / "model")
    out = str(folder / "neurox.hdf5")
    first = folder / "first.txt"
    first.write_text((folder / "texts.txt").read_text().split("\n")[0] + "\n")
    timed(lambda: module.extract_representations(model, str(first), out, output_type="hdf5"))
    _, loading = timed(lambda: module.get_model_and_tokenizer(model))
    _, seconds = timed(
        lambda: module.extract_representations(model, str(folder / "texts.txt"), out, output_type="hdf5")
    )
    return {"seconds": seconds - loading}


def linear_probe(folder: Path) -> dict[str, Any]:
    """Its linear probe as it comes: 10 epochs of Adam, with and without its usual penalties."""
    module = import_module("neurox.interpretation.linear_probe")
    X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
    count = json.loads((folder / "settings.json").read_text())["train"]
    train = module.train_logistic_regression_probe
    timed(lambda: train(X[:200], y[:200], num_epochs=1))
    runs = {}
    for penalty in (0.001, 0.0):
        probe, seconds = timed(partial(train, X[:count], y[:count], lambda_l1=penalty, lambda_l2=penalty))
        scores = module.evaluate_probe(probe, X[count:], y[count:])
        runs[str(penalty)] = {"seconds": seconds, "accuracy": float(scores["__OVERALL__"])}
    return {"runs": runs}


def clustering(folder: Path) -> dict[str, Any]:
    """Its clusters of the columns of `X.npy`, and the memory that they took."""
    module = import_module("neurox.interpretation.clustering")
    X = np.load(folder / "X.npy")
    before = peak_memory()
    labels, seconds = timed(lambda: module.create_correlation_clusters(X))
    np.save(folder / "neurox-clusters.npy", labels)
    return {"seconds": seconds, "memory": peak_memory() - before, "clusters": int(np.max(labels))}


def peak_memory() -> int:
    """Bytes that the process has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


TASKS = {"extraction": extraction, "linear-probe": linear_probe, "clustering": clustering}


def main(folder: Path, task: str) -> None:
    """Does a task and writes `neurox.json` beside its input."""
    torch.set_num_threads(1)
    found = TASKS[task](folder)
    (folder / "neurox.json").write_text(json.dumps({"version": version("neurox"), **found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
