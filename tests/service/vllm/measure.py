"""What control costs in vLLM: processor time and wall time of bare vLLM, of the plugin idle and under control.

`python -m tests.service.vllm.measure` runs two engines in processes of their own, one of them without the plugin, and
asks them in turn; it prints the medians of the rounds' ratios and JSON. With a GPU it measures there.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.tiny import tiny

LAYERS, HIDDEN, FFN, VOCABULARY = 8, 512, 2048, 8000


def serve(folder: Path, args: argparse.Namespace) -> None:
    """Answers `idle` and `controlled` with the seconds (processor, wall) that so many requests took."""
    from tests.service.vllm.prove import engine_for

    more: dict[str, Any] = {"max_num_batched_tokens": 2048, "max_num_seqs": min(args.count, 64)}
    more |= {"tensor_parallel_size": args.tensor_parallel, "dtype": args.dtype}
    if not torch.cuda.is_available():
        more |= {"num_gpu_blocks_override": 1024}
    engine = engine_for(folder, compiled=args.compiled, blocks=1024, settings={}, **more)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(timed(engine, line.strip() == "controlled", args.count)), flush=True)


def timed(engine: Any, controlled: bool, count: int) -> list[float]:
    """One round."""
    from vllm import SamplingParams

    draw = random.Random(3)
    for number in range(count):
        neurons = ",".join(map(str, draw.sample(range(FFN), 16)))
        control = [
            {"neurons": f"decoder.{number % LAYERS}.ffn[{neurons}]", "op": "shift", "value": 0.1},
            {"neurons": f"decoder.{number % LAYERS}.resid[1,2,3]", "op": "amplify", "value": 1.1},
        ]
        extra = {"controls": json.dumps(control)} if controlled else None
        params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, extra_args=extra)
        prompt = [draw.randrange(5, VOCABULARY) for _ in range(20)]
        engine.add_request(f"{time.monotonic_ns()}", {"prompt_token_ids": prompt}, params)
    started, spent = time.perf_counter(), time.process_time()
    while engine.has_unfinished_requests():
        engine.step()
    return [time.process_time() - spent, time.perf_counter() - started]


def asked(child: "subprocess.Popen[str]", what: str) -> list[float]:
    """A round of a child's."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(f"{what}\n")
    child.stdin.flush()
    return answer(child)


def answer(child: "subprocess.Popen[str]") -> list[float]:
    """The next line of a child's that is an answer."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "ready":
            return []
        if line.startswith("["):
            return [float(seconds) for seconds in json.loads(line)]
    raise RuntimeError("the engine has ended; its messages are above")


def compare(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Rounds of bare, idle and controlled in turn."""
    command = [sys.executable, "-m", "tests.service.vllm.measure", "--serve", str(folder), *sys.argv[1:]]
    children: dict[str, subprocess.Popen[str]] = {}
    for name, value in (("plugin", "1"), ("bare", "0")):
        environment = os.environ | {"NEURODIAL_VLLM": value}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
        children[name] = subprocess.Popen(command, text=True, **pipes)
        answer(children[name])
    kinds = {"bare": ("bare", "idle"), "idle": ("plugin", "idle"), "controlled": ("plugin", "controlled")}
    rounds: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for number in range(args.rounds + 1):
        for kind, (child, what) in kinds.items():
            seconds = asked(children[child], what)
            if number:  # the first warms up
                rounds[kind].append(seconds)
    for one in children.values():
        one.terminate()
    told: dict[str, Any] = {"requests": args.count, "rounds": args.rounds, "device": device()}
    for place, unit in enumerate(("processor", "wall")):
        for above, below in (("bare", "idle"), ("idle", "controlled"), ("bare", "controlled")):
            ratios = [a[place] / b[place] for a, b in zip(rounds[above], rounds[below], strict=True)]
            told[f"{below} / {above}, {unit}"] = round(median(ratios), 3)
        told[f"seconds, {unit}"] = {kind: round(median(r[place] for r in found), 3) for kind, found in rounds.items()}
    return told


def device() -> str:
    """Where it was measured."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args)
        return
    with TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "num_hidden_layers": LAYERS,
            "vocab_size": VOCABULARY,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "max_position_embeddings": 256,
            "initializer_range": 0.05,
        }
        tiny("llama", **settings).save_pretrained(folder)
        told = compare(Path(folder), args)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
