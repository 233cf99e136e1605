"""What is compared in the engine's benchmark, in one process: `generate`, our engine, transformers' own batching."""

import copy
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, StoppingCriteria

from neurodial.control import Control, LoadedModel, SetCatalogue, load_model, parse_controls
from neurodial.control.models.sites import SiteInfo, sites_of
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.model.kv_cache import KVCache, RowCache
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.scheduler import Capacity
from neurodial.service.engine.sequence import Sequence as EngineSequence
from neurodial.service.engine.stepping import Outcome
from tests.benchmarks.bench_control import ROOT
from tests.benchmarks.bench_control import random_llama as bare_llama
from tests.benchmarks.engine_load import MAX_ROWS, NEURONS, Generate, Job, Serve, Served, in_batches, padded
from tests.service.engine.growing_cache import GrowingCache

SHIFT = 0.5
Numbered = Callable[[int], tuple[Control, ...]]
Step = Callable[[Sequence[EngineSequence]], list[Outcome]]


class Numbers:
    """A tokenizer whose texts are lists of token ids."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def demo() -> LoadedModel:
    """The bundled English–Spanish model, with prompts given as token ids; it never writes its end token."""
    return _endless(load_model(ROOT / "deploy/demo/en-es"))


def random_llama() -> LoadedModel:
    """Eight layers of width 512, vocabulary 8,000."""
    loaded = bare_llama()
    loaded.model.config.pad_token_id = 0
    return _endless(loaded)


def _endless(loaded: LoadedModel) -> LoadedModel:
    """Every output has exactly as many tokens as were asked for, in all variants."""
    settings: Any = loaded.model.generation_config
    if settings.eos_token_id is not None and settings.bad_words_ids:
        settings.bad_words_ids = [*settings.bad_words_ids, [settings.eos_token_id]]
    settings.eos_token_id = settings.forced_eos_token_id = settings.max_length = settings.max_new_tokens = None
    settings.num_beams, settings.do_sample, settings.pad_token_id = 1, False, loaded.model.config.pad_token_id
    loaded.model.eval()
    numbers: Any = Numbers()
    return LoadedModel(loaded.model, numbers, loaded.name, loaded.fingerprint, loaded.sites)


def decoder_ffn(loaded: LoadedModel) -> tuple[SiteInfo, ...]:
    """The sites that the controls touch."""
    return loaded.sites.of("decoder", "ffn")


@lru_cache(512)
def neurons_of(number: int, widths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Which of each site's neurons a request shifts: 50 over all sites, others for every number."""
    draw, count = random.Random(number), -(-NEURONS // len(widths))
    return tuple(tuple(sorted(draw.sample(range(width), count))) for width in widths)


def numbered_controls(loaded: LoadedModel) -> Numbered:
    """For every number another control of 50 neurons."""
    sites = decoder_ffn(loaded)

    @lru_cache(512)
    def control(number: int) -> tuple[Control, ...]:
        chosen = neurons_of(number, tuple(info.width for info in sites))
        addresses = [f"{i.site}[{','.join(map(str, n))}]" for i, n in zip(sites, chosen, strict=True)]
        return parse_controls([{"neurons": a, "op": "shift", "value": SHIFT} for a in addresses])

    return control


class _Stamps(StoppingCriteria):
    """Notes the time after every token."""

    def __init__(self, stamps: list[float]) -> None:
        self._stamps = stamps

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._stamps.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def with_generate(loaded: LoadedModel) -> Generate:
    """transformers' `generate`, greedy, without controls."""
    model: Any = loaded.model
    is_causal = not model.config.is_encoder_decoder

    def generate(batch: Sequence[Job], stamps: list[float]) -> list[list[int]]:
        ids, mask = padded(batch, model.config.pad_token_id, left=is_causal)
        longest = max(job.num_tokens for job in batch)
        with torch.inference_mode():
            output = model.generate(
                ids, attention_mask=mask, max_new_tokens=longest, stopping_criteria=[_Stamps(stamps)]
            )
        rows: list[list[int]] = output[:, ids.shape[1] if is_causal else 1 :].tolist()
        return rows

    return generate


class _Stamped(RequestProcessor):
    """Notes when each sequence's tokens were there."""

    stamps: dict[str, list[float]]
    tokens: dict[str, list[int]]

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        runner: Any = self.runner
        runner.advance, runner.join = self._noting(runner.advance), self._noting(runner.join)

    def clear(self) -> None:
        self.stamps, self.tokens = defaultdict(list), defaultdict(list)

    def _noting(self, work: Step) -> Step:
        def noted(sequences: Sequence[EngineSequence]) -> list[Outcome]:
            outcomes = work(sequences)
            now = time.perf_counter()
            for outcome in outcomes:
                for token in outcome.tokens:
                    self.stamps[outcome.sequence.request.id].append(now)
                    self.tokens[outcome.sequence.request.id].append(token)
            return outcomes

        return noted


def with_engine(
    loaded: LoadedModel, controls: Numbered, cache: Callable[[], RowCache] = KVCache, *, compiles: bool = False
) -> Serve:
    """Our engine; controls have been compiled, as a server remembers them."""
    runner = _Stamped(loaded, SetCatalogue({}), max_rows=MAX_ROWS, cache=cache(), compiles=compiles)

    def serve(jobs: Sequence[Job]) -> Served:
        runner.clear()
        requests = [
            EngineRequest(str(j.number), " ".join(map(str, j.ids)), controls(j.number), max_tokens=j.num_tokens)
            for j in jobs
        ]
        for request in requests:
            runner.prepare(request)
        engine = Engine(runner, Capacity(max_rows=MAX_ROWS))
        start = time.perf_counter()
        if all(job.arrives_s == 0 for job in jobs):
            handles = list(engine.submit_all(requests))
        else:
            handles = []
            for job, request in zip(jobs, requests, strict=True):
                time.sleep(max(0.0, job.arrives_s - (time.perf_counter() - start)))
                handles.append(engine.submit(request))
        for handle in handles:
            handle.result(600)
        engine.close()
        stamps = {int(number): [at - start for at in found] for number, found in runner.stamps.items()}
        return Served(stamps, {int(number): found for number, found in runner.tokens.items()})

    return serve


def with_continuous_batching(loaded: LoadedModel) -> Serve:
    """transformers' continuous batching, with a hook on every site that adds each request's shift to its tokens.

    Its states are packed, (1, tokens of all requests, width). Sharing of blocks is off: it would let one request read
    what another's control has made.
    """
    model: Any = loaded.model
    infos = decoder_ffn(loaded)
    widths = tuple(info.width for info in infos)

    def serve(jobs: Sequence[Job]) -> Served:
        tables = []
        for place, info in enumerate(infos):
            table = torch.zeros(max(job.number for job in jobs) + 1, info.width)
            for job in jobs:
                table[job.number, list(neurons_of(job.number, widths)[place])] = SHIFT
            tables.append(table)
        owners: list[torch.Tensor] = []  # of the pass under way: the request of every token

        def note(_: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
            bounds = kwargs["cu_seq_lens_q"]
            states = manager.batch_processor.inputs_and_outputs.requests_in_batch
            numbers = torch.tensor([int(found.state.request_id) for found in states])
            owners[:] = [numbers.repeat_interleave(bounds[1 : len(states) + 1] - bounds[: len(states)])]

        def adder(table: torch.Tensor) -> Any:
            return lambda _, args: (args[0] + table[owners[0]],)

        sizes: dict[str, Any] = {
            "max_requests_per_batch": MAX_ROWS,
            "max_batch_tokens": 1024,
            "num_blocks": 256,
            "page_size": 64,
        }
        config = ContinuousBatchingConfig(allow_block_sharing=False, **sizes)
        manager = model.init_continuous_batching(continuous_batching_config=config)
        hooks = [model.register_forward_pre_hook(note, with_kwargs=True)]
        hooks += [i.module.register_forward_pre_hook(adder(t)) for i, t in zip(infos, tables, strict=True)]
        manager.start()
        manager.add_request(list(jobs[0].ids), request_id=str(jobs[0].number), max_new_tokens=2)  # makes its cache
        manager.get_result(timeout=60)
        served, start = Served(), time.perf_counter()
        for job in jobs:
            time.sleep(max(0.0, job.arrives_s - (time.perf_counter() - start)))
            manager.add_request(
                list(job.ids), request_id=str(job.number), max_new_tokens=job.num_tokens, record_timestamps=True
            )
        while len(served.tokens) < len(jobs):
            result = manager.get_result(timeout=60)
            if result is None or result.error:
                raise RuntimeError(f"continuous batching failed: {result and result.error}")
            served.tokens[int(result.request_id)] = list(result.generated_tokens)
            served.stamps[int(result.request_id)] = [at - start for at in result.timestamps]
        manager.stop(block=True)
        for hook in hooks:
            hook.remove()
        return served

    return serve


def variants(loaded: LoadedModel) -> dict[str, Serve]:
    """What takes turns in every round; static `generate`, on a model that no engine has touched, is the baseline."""
    control, model = numbered_controls(loaded), copy.deepcopy(loaded.model)
    own = LoadedModel(model, loaded.tokenizer, loaded.name, loaded.fingerprint, sites_of(model))
    packed = (
        {"continuous batching with hooks": with_continuous_batching(loaded)} if loaded.family == "decoder-only" else {}
    )
    return {
        "static batches": in_batches(with_generate(loaded)),
        "engine, no control": with_engine(own, lambda _: ()),
        "engine, one shared control": with_engine(own, lambda _: control(0)),
        "engine, a control per request": with_engine(own, control),
        "compiled, no control": with_engine(own, lambda _: (), compiles=True),
        "compiled, a control per request": with_engine(own, control, compiles=True),
        "engine, growing cache": with_engine(own, lambda _: (), GrowingCache),
    } | packed
