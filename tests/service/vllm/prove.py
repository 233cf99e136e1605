"""Runs drawn requests through vLLM in this process and compares each with its run alone; prints JSON.

`python -m tests.service.vllm.prove MODEL …`, in a process of its own, since vLLM binds threads and memory for good.
"""

import os

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from neurodial.service.vllm.admission import report_of
from tests.service.vllm.requests import (
    MAX_LENGTH,
    NEAR_TIE,
    SETTINGS,
    Drawn,
    alone,
    differs,
    draw_requests,
    load,
    model_folder,
    sets_for,
)


def engine_for(folder: Path, *, compiled: bool, blocks: int, settings: dict[str, Any], **more: Any) -> Any:
    """An engine of vLLM's in this process, with little room, so that requests are chunked and preempted."""
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    options: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "enforce_eager": not compiled,
        "max_model_len": MAX_LENGTH,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 48,
        "enable_chunked_prefill": True,
        "enable_prefix_caching": True,
        "block_size": 32,
        "num_gpu_blocks_override": blocks,
        "additional_config": {"neurodial": settings},
        "disable_log_stats": True,
    }
    return LLMEngine.from_engine_args(EngineArgs(**(options | more)), enable_multiprocessing=False)


def params_of(request: Drawn, ends: Sequence[int] = ()) -> Any:
    """Greedy, with the request's controls; without a tokenizer vLLM has to be told what ends an output."""
    from vllm import SamplingParams

    extra = {"controls": request.controls} if request.controls else None
    return SamplingParams(temperature=0, max_tokens=request.max_tokens, extra_args=extra, stop_token_ids=list(ends))


def run(engine: Any, requests: list[Drawn], seed: int, aborts: float, ends: Sequence[int]) -> dict[str, Any]:
    """Lets requests arrive over time; what came out, by their numbers, but for those that were aborted."""
    draw, waiting = random.Random(seed), [(str(number), request) for number, request in enumerate(requests)]
    waiting.reverse()
    outputs: dict[str, Any] = {}
    running: list[str] = []
    while waiting or engine.has_unfinished_requests():
        for _ in range(draw.choice((0, 1, 2, 8)) if len(running) < 24 else 0):
            if waiting:
                name, request = waiting.pop()
                engine.add_request(name, {"prompt_token_ids": list(request.prompt)}, params_of(request, ends))
                running.append(name)
        if running and draw.random() < aborts:
            gone = draw.choice(running)
            engine.abort_request([gone])
            running.remove(gone)
        for output in engine.step():
            if output.finished and output.request_id in running:
                running.remove(output.request_id)
                outputs[output.request_id] = output
    return outputs


def taken(engine: Any, name: str, tokens: int) -> Any:
    """The proof of a request."""
    (answer, *_) = engine.collective_rpc("neurodial_take", args=(name, tokens))
    return answer


def prove(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All requests, and what is told of them."""
    path = model_folder(args.model, folder)
    loaded = load(path)
    sets = sets_for(loaded, folder)
    settings = SETTINGS | {"sets": sets, "static": args.static}
    requests = draw_requests(loaded, sets, args.count, args.seed)
    engine = engine_for(
        path,
        compiled=args.compiled,
        blocks=args.blocks,
        settings={} if args.bare else settings,
        tensor_parallel_size=args.tensor_parallel,
    )
    scheduler = engine.engine_core.engine_core.scheduler
    preempted: list[str] = []
    preempt = scheduler._preempt_request

    def counting(request: Any, *rest: Any, **options: Any) -> Any:
        preempted.append(request.request_id)
        return preempt(request, *rest, **options)

    scheduler._preempt_request = counting
    if args.bare:
        requests = [Drawn(request.prompt, "", None, request.max_tokens) for request in requests]
    from torch._dynamo.utils import counters

    before = counters["stats"]["unique_graphs"]
    settings_of: Any = loaded.model.generation_config
    ends = () if settings_of.eos_token_id is None else (settings_of.eos_token_id,)
    outputs = run(engine, requests, args.seed, args.aborts, ends)
    ties, wrong, counted, changed = 0, [], 0, 0
    for name, output in outputs.items():
        request, tokens = requests[int(name)], list(output.outputs[0].token_ids)
        expected = alone(loaded, request)
        gap = differs(tokens, expected)
        ties += gap is not None and gap < NEAR_TIE
        if gap is not None and gap >= NEAR_TIE:
            wrong.append({"request": name, "controls": request.controls, "gap": gap})
        if request.compiled is None or gap is not None:
            continue
        answer = taken(engine, name, len(tokens))
        told = report_of(request.compiled, answer["done"])
        if not output.num_cached_tokens:
            counted += 1
            if told != expected.applied:
                wrong.append({"request": name, "told": told, "expected": expected.applied})
        plain = alone(loaded, Drawn(request.prompt, "", None, request.max_tokens)) if args.changes else expected
        changed += plain.tokens != expected.tokens
    controller = getattr(engine.model_executor.driver_worker.worker, "_controller", None)
    return {
        "model": args.model,
        "requests": len(requests),
        "finished": len(outputs),
        "controlled": sum(bool(request.controls) for request in requests),
        "distinct": len({request.controls for request in requests if request.controls}),
        "wrong": wrong,
        "near_ties": ties,
        "proofs_compared": counted,
        "changed_by_control": changed,
        "preempted": len(preempted),
        "compiled_while_serving": counters["stats"]["unique_graphs"] - before,
        "cached": sum(output.num_cached_tokens > 0 for output in outputs.values()),
        "left": controller and [len(controller._rows), len(controller._slots)],
        "tokens": {name: list(output.outputs[0].token_ids) for name, output in outputs.items()}
        if args.tokens
        else None,
    }


def main() -> None:
    """Reads the arguments, runs, prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=70)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--aborts", type=float, default=0.02)
    parser.add_argument("--tensor-parallel", type=int, default=1)
    for flag in ("compiled", "static", "bare", "tokens", "changes"):
        parser.add_argument(f"--{flag}", action="store_true")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        print(json.dumps(prove(args, Path(folder))))


if __name__ == "__main__":
    main()
