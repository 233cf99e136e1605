"""What controls cost: the time of a decode step under them, as a ratio to the bare model in the same run.

Two models (the demo and a random Llama of 8 layers and width 512), batches of 1, 8 and 32. A step is one forward pass
for one new token in every row, from a cache of the same length each time. The variants take turns, step by step, and
the ratios are medians over rounds, so that a machine whose speed drifts does not favour one of them.

Beside them the same effect on the same rows by hooks written by hand and by nnsight and pyvene, each checked for equal
logits. Peers run in environments of their own, which the variables name; one that is not there is skipped:

    python -m venv nnsight && nnsight/bin/pip install nnsight "transformers>=5.10,<6" "torch>=2.9,<2.14"
    python -m venv pyvene && pyvene/bin/pip install pyvene "transformers>=5.10,<6" "torch>=2.9,<2.14"
    NEURODIAL_BENCH_NNSIGHT=nnsight/bin/python NEURODIAL_BENCH_PYVENE=pyvene/bin/python make bench
"""

import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from neurodial.control import (
    CompiledControls,
    LoadedModel,
    NeuronSet,
    ReadOut,
    Recommended,
    SetCatalogue,
    Site,
    SiteNeurons,
    compile_controls,
    controlled,
    load_model,
    parse_controls,
)
from tests.benchmarks.decode_step import DecodeStep, Step, Variant, interleave, summary

ROOT = Path(__file__).parents[2]
UNHOOKED, AGAIN = "unhooked", "unhooked, again"
SHARED, EACH = "one control of 50 neurons in all rows", "another such control in every row"
TARGETS = {
    "identity on all ffn sites": 1.03,
    SHARED: 1.05,
    EACH: 1.05,
    "the same, gated by a neuron": 1.10,
    "the same, gated by the concept": 1.10,
}
BY_HAND = "the same effect, hooks by hand"
EACH_TO_SHARED = 1.02
NEURONS, CONTEXT, SOURCE = 50, 64, 32
TOLERANCE = 1e-3
Rows = list[CompiledControls]
Tables = dict[str, tuple[torch.Tensor, torch.Tensor]]  # module → scale and shift, each (rows, 1, width)


@dataclass(frozen=True)
class Workload:
    """One model and batch size."""

    loaded: LoadedModel
    step: DecodeStep
    inputs: dict[str, torch.Tensor]
    plans: dict[str, Rows]

    @property
    def tables(self) -> Tables:
        """The effect of another control in every row, as dense tables."""
        rows, tables = self.plans[EACH], {}
        for site in decoder_ffn(self.loaded):
            info = self.loaded.sites.info(site)
            scale, shift = torch.ones(len(rows), 1, info.width), torch.zeros(len(rows), 1, info.width)
            for row, compiled in enumerate(rows):
                for effect in (e for control in compiled.controls for e in control.effects if e.site == site):
                    scale[row, 0, effect.neurons], shift[row, 0, effect.neurons] = effect.scale, effect.shift
            tables[info.path] = (scale, shift)
        return tables


def random_llama() -> LoadedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    return LoadedModel.wrap(LlamaForCausalLM(config), None)  # type: ignore[arg-type]


def decoder_ffn(loaded: LoadedModel) -> list[Site]:
    """The FFN sites that a decode step runs."""
    return [site for site in loaded.sites.sites if site.kind == "ffn" and site.stack == "decoder"]


def random_set(loaded: LoadedModel, seed: int) -> NeuronSet:
    """50 neurons spread over all FFN sites, with a read-out at the first of them."""
    draw = np.random.default_rng(seed)
    sites, labels = decoder_ffn(loaded), ("low", "high")

    def floats(*shape: int) -> np.ndarray[Any, Any]:
        return draw.normal(size=shape).astype(np.float32)

    def part(number: int, site: Site) -> SiteNeurons:
        k = len(range(number, NEURONS, len(sites)))
        chosen = draw.permutation(loaded.sites.info(site).width)[:k].astype(np.int64)
        both = {label: floats(k) for label in labels}
        return SiteNeurons(site, chosen, floats(k), both, both, floats(k), {label: 0.5 * floats(k) for label in labels})

    width = loaded.sites.info(sites[0]).width
    classes = ("none", *labels)
    readout = ReadOut(sites[0], np.arange(width, dtype=np.int64), floats(3, width), floats(3), classes)
    advice = Recommended("shift", "all", dict.fromkeys(labels, 1.0))
    parts = tuple(part(number, site) for number, site in enumerate(sites))
    return NeuronSet(f"s{seed}", labels, loaded.name, loaded.fingerprint, parts, (readout,), advice)


def workload(loaded: LoadedModel, batch: int) -> Workload:
    draw = torch.Generator().manual_seed(1)
    size = {"context": CONTEXT, "new": 1} | ({"source": SOURCE} if loaded.family == "encoder-decoder" else {})
    inputs = {name: torch.randint(10, 7900, (batch, tokens), generator=draw) for name, tokens in size.items()}
    sets = SetCatalogue({f"s{row}": random_set(loaded, row) for row in range(batch)})
    sites = decoder_ffn(loaded)

    def compiled(raw: list[dict[str, Any]]) -> CompiledControls:
        return compile_controls(loaded, parse_controls(raw), sets)

    def each(where: Any) -> Rows:
        return [compiled([{"set": f"s{row}", "to": "high", "where": where(row)}]) for row in range(batch)]

    identity = compiled([{"neurons": f"{site}[*]", "op": "amplify", "value": 1.0} for site in sites])
    plans = [
        [identity] * batch,
        [compiled([{"set": "s0", "to": "high"}])] * batch,
        each(lambda row: "all"),
        each(lambda row: {"neuron": f"{sites[0]}[{row}]", "above": 0.0}),
        each(lambda row: "concept"),
    ]
    step = DecodeStep(loaded.model, inputs["context"], inputs["new"], inputs.get("source"))
    return Workload(loaded, step, inputs, dict(zip(TARGETS, plans, strict=True)))


def variants(work: Workload) -> dict[str, Variant]:
    """Everything that is timed in this process."""

    @contextmanager
    def bare() -> Iterator[Step]:
        yield work.step

    @contextmanager
    def under(rows: Rows) -> Iterator[Step]:
        with torch.inference_mode(), controlled(work.loaded, rows):
            yield work.step

    tables = work.tables

    @contextmanager
    def by_hand() -> Iterator[Step]:
        with ExitStack() as hooks:
            for path, table in tables.items():
                module = work.loaded.model.get_submodule(path)
                hooks.callback(module.register_forward_pre_hook(_affine(*table)).remove)
            yield work.step

    ours = {name: partial(under, rows) for name, rows in work.plans.items()}
    return {UNHOOKED: bare, AGAIN: bare, **ours, BY_HAND: by_hand}


def _affine(scale: torch.Tensor, shift: torch.Tensor) -> Any:
    return lambda _, args: (torch.addcmul(shift, args[0], scale),)


def check(work: Workload, timed: dict[str, Variant]) -> dict[str, torch.Tensor]:
    """Makes sure that the effect is there, and the same by hand; returns the logits."""
    logits = {}
    for name in (UNHOOKED, EACH, BY_HAND):
        with timed[name]() as step:
            logits[name] = step()
    if not torch.allclose(logits[EACH], logits[BY_HAND], atol=TOLERANCE):
        raise SystemExit("the logits under controls differ from those under hooks by hand")
    if torch.allclose(logits[EACH], logits[UNHOOKED], atol=10 * TOLERANCE):
        raise SystemExit("the controls do nothing that could be compared")
    return {"plain": logits[UNHOOKED], "controlled": logits[EACH]}


def measure(name: str, loaded: LoadedModel, batch: int, rounds: int, seconds: float, folder: Path) -> dict[str, Any]:
    """One model and batch size in this process; leaves the workload for the peers."""
    work = workload(loaded, batch)
    timed = variants(work)
    logits = check(work, timed)
    tables = {f"scale/{path}": scale for path, (scale, _) in work.tables.items()}
    tables |= {f"shift/{path}": shift for path, (_, shift) in work.tables.items()}
    given = {key: tensor.contiguous() for key, tensor in (work.inputs | logits | tables).items()}
    save_file(given, folder / f"batch-{batch}.safetensors")
    times = interleave(timed, rounds=rounds, seconds=seconds)
    figures = {variant: summary(times, variant, UNHOOKED) for variant in timed}
    ratios = [r[EACH] / r[SHARED] for r in times]
    low, middle, high = (round(q, 4) for q in statistics.quantiles(ratios, n=4, method="inclusive"))
    each_to_shared = {"median": middle, "q1": low, "q3": high}
    return {"model": name, "batch": batch, "rounds": len(times), "variants": figures, "each_to_shared": each_to_shared}


def run_peer(peer: str, python: str, folder: Path) -> dict[str, Any]:
    """A peer's figures for one model, measured by its own interpreter."""
    command = [python, "-m", "tests.benchmarks.peer_steps", str(folder), peer]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"problem": (done.stderr.strip().splitlines() or ["it failed"])[-1]}
    answer: dict[str, Any] = json.loads((folder / f"{peer}.json").read_text())
    return answer


def show(result: dict[str, Any], peers: Sequence[tuple[str, dict[str, Any]]], console: Console) -> None:
    table = Table("variant", "ms (quartiles)", "ratio to unhooked (quartiles)", "target")
    for name, figures in result["variants"].items():
        table.add_row(
            name, _cell(figures["ms"]), _cell(figures["ratio"]), _verdict(figures["ratio"], TARGETS.get(name))
        )
    each = result["each_to_shared"]
    table.add_row("every row / all rows", "", _cell(each), _verdict(each, EACH_TO_SHARED))
    for peer, answer in peers:
        found = next((r for r in answer.get("results", []) if r["batch"] == result["batch"]), answer)
        if "problem" in found:
            table.add_row(f"the same effect, {peer}", found["problem"], "", "")
            continue
        figures = found[peer]
        table.add_row(f"the same effect, {peer} {answer['version']}", _cell(figures["ms"]), _cell(figures["ratio"]), "")
    console.print(f"\n[bold]{result['model']}, batch {result['batch']}[/bold], {result['rounds']} rounds", table)


def _cell(figures: dict[str, float]) -> str:
    return f"{figures['median']:.3f} ({figures['q1']:.3f} to {figures['q3']:.3f})"


def _verdict(figures: dict[str, float], target: float | None) -> str:
    return "" if target is None else f"≤ {target:.2f} {'met' if figures['median'] <= target else 'MISSED'}"


def main(
    model: Path = typer.Option(ROOT / "deploy/demo/en-es", help="the demo model's folder"),
    batch: list[int] = typer.Option([1, 8, 32], help="batch sizes"),
    rounds: int = typer.Option(30, min=2, help="at least so many rounds"),
    seconds: float = typer.Option(20.0, help="at least so long for each model and batch size; a peer gets a third"),
    nnsight: str = typer.Option("", envvar="NEURODIAL_BENCH_NNSIGHT", help="interpreter that has nnsight"),
    pyvene: str = typer.Option("", envvar="NEURODIAL_BENCH_PYVENE", help="interpreter that has pyvene"),
    out: Path = typer.Option(ROOT / "tests/benchmarks/results/control.json", help="receives the results"),
) -> None:
    """Measures what controls cost in a decode step and writes it as JSON."""
    console, results, load = Console(width=120), [], os.getloadavg()[0]
    logging.disable_progress_bar()
    interpreters = {name: python for name, python in (("nnsight", nnsight), ("pyvene", pyvene)) if python}
    for missing in {"nnsight", "pyvene"} - set(interpreters):
        console.print(f"{missing}: skipped, NEURODIAL_BENCH_{missing.upper()} names no interpreter that has it")
    for name, loaded in (("demo", load_model(model)), ("random Llama, 8 × 512", random_llama())):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            measured = [measure(name, loaded, size, rounds, seconds, folder) for size in batch]
            loaded.model.save_pretrained(folder)
            settings = {"batches": batch, "rounds": rounds, "seconds": seconds / 3, "threads": torch.get_num_threads()}
            (folder / "settings.json").write_text(json.dumps(settings))
            peers = [(peer, run_peer(peer, python, folder)) for peer, python in interpreters.items()]
        for result in measured:
            show(result, peers, console)
        results += [result | {"peers": _of_batch(peers, result["batch"])} for result in measured]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start",
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in ("torch", "transformers")},
        "context": CONTEXT,
        "neurons": NEURONS,
        "targets": TARGETS | {"each_to_shared": EACH_TO_SHARED},
        "results": results,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _of_batch(peers: Sequence[tuple[str, dict[str, Any]]], batch: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for peer, answer in peers:
        here = next((r for r in answer.get("results", []) if r["batch"] == batch), {"problem": answer.get("problem")})
        found[peer] = here | {"version": answer.get("version")}
    return found


if __name__ == "__main__":
    typer.run(main)
