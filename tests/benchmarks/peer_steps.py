"""Times a decode step under a peer's control, with the interpreter of an environment of the peer's own.

bench_control.py writes a folder with the model, the inputs, the wanted effect as x' = scale · x + shift at the input of
each output projection, and the logits that this gives; it starts this file with the peer's interpreter and reads the
answer. A peer whose logits differ is not timed.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import logging

from tests.benchmarks.decode_step import DecodeStep, Step, interleave, summary

Tables = dict[str, tuple[torch.Tensor, torch.Tensor]]  # module → scale and shift, each (rows, 1, width)
TOLERANCE = 1e-3


def with_nnsight(model: Any, step: DecodeStep, tables: Tables) -> Step:
    """nnsight: one trace a step, which sets the input of each module."""
    nnsight = import_module("nnsight")
    wrapped = nnsight.NNsight(model)
    envoys = []
    for path, (scale, shift) in tables.items():
        envoy = wrapped
        for part in path.split("."):
            envoy = envoy[int(part)] if part.isdigit() else getattr(envoy, part)
        envoys.append((envoy, scale, shift))

    def run() -> Any:
        with torch.inference_mode(), wrapped.trace(**step.arguments()):
            for envoy, scale, shift in envoys:
                envoy.input = torch.addcmul(shift, envoy.input, scale)
            logits = wrapped.output.logits.save()
        return logits

    return run


def with_pyvene(model: Any, step: DecodeStep, tables: Tables) -> Step:
    """pyvene: an intervention of our own on the input of each module, at all positions."""
    pyvene = import_module("pyvene")

    class Affine(pyvene.ConstantSourceIntervention):  # type: ignore[name-defined,misc]
        def __init__(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
            super().__init__(keep_last_dim=True)
            self.scale, self.shift = scale, shift

        def forward(self, base: torch.Tensor, source: Any = None, subspaces: Any = None, **_: Any) -> torch.Tensor:
            return torch.addcmul(self.shift, base, self.scale)

    parts = [
        {"component": re.sub(r"\.(\d+)", r"[\1]", path) + ".input", "intervention": Affine(*table)}
        for path, table in tables.items()
    ]
    wrapped = pyvene.IntervenableModel(pyvene.IntervenableConfig(parts), model=model)

    def run() -> Any:
        with torch.inference_mode():
            return wrapped(base=step.arguments(), unit_locations=None)[1].logits

    return run


PEERS = {"nnsight": with_nnsight, "pyvene": with_pyvene}


def measure(folder: Path, peer: str, model: Any, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One batch size of a model: the peer beside the bare model."""
    given = load_file(folder / f"batch-{batch}.safetensors")
    step = DecodeStep(model, given["context"], given["new"], given.get("source"))
    paths = [name.removeprefix("scale/") for name in given if name.startswith("scale/")]
    tables = {path: (given[f"scale/{path}"], given[f"shift/{path}"]) for path in paths}
    if not torch.allclose(step(), given["plain"], atol=TOLERANCE):
        return {"batch": batch, "problem": "the bare model's logits differ"}
    run = PEERS[peer](model, step, tables)
    difference = float((run() - given["controlled"]).abs().max())
    if difference > TOLERANCE:
        return {"batch": batch, "problem": f"its logits differ by {difference:.2g}"}

    @contextmanager
    def ready(function: Step) -> Iterator[Step]:
        yield function

    times = interleave(
        {"unhooked": lambda: ready(step), peer: lambda: ready(run)}, rounds=rounds, seconds=seconds
    )  # fmt: skip
    figures = {name: summary(times, name, "unhooked") for name in ("unhooked", peer)}
    return {"batch": batch, "rounds": len(times), "difference": difference, **figures}


def main(folder: Path, peer: str) -> None:
    """Measures every batch size that the folder holds and writes `PEER.json` there."""
    logging.disable_progress_bar()
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    is_seq2seq = AutoConfig.from_pretrained(folder).is_encoder_decoder
    auto: Any = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    results = [measure(folder, peer, model, b, settings["rounds"], settings["seconds"]) for b in settings["batches"]]
    document = {"version": version(peer), "torch": torch.__version__, "results": results}
    (folder / f"{peer}.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
