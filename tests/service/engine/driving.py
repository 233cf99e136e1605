"""Drives a scheduler and a runner as an engine does, without threads, tokenizer or clock."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.control.runtime.generate import controlled
from neurodial.service.engine import sequence as engine_sequence
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.model.kv_cache import KVCache, RowCache
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.model.sampling import ModelDefaults
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.scheduler import Capacity, Scheduler
from neurodial.service.engine.stepping import Stepper
from neurodial.service.engine.types import Failed, Finished, Prepared
from tests.service.engine.growing_cache import GrowingCache
from tests.tiny import PAD

CACHES: tuple[Callable[[], RowCache], ...] = (KVCache, GrowingCache)
NEAR_TIE = 1e-4


class Driver:
    """An engine without a thread around a model without a tokenizer."""

    def __init__(
        self, model: PreTrainedModel, *, max_rows: int = 6, prefill_tokens: int = 24, cache: RowCache | None = None
    ) -> None:
        settings: Any = getattr(model, "generation_config", None)
        if settings is not None:  # `generate` takes padding that a model writes for that of a finished row
            settings.suppress_tokens = [PAD]
        self.loaded = LoadedModel.wrap(model, None)  # type: ignore[arg-type]
        processor = RequestProcessor(self.loaded, SetCatalogue({}), max_rows=max_rows, cache=cache)
        self.runner = processor.runner
        self.scheduler = Scheduler(Capacity(max_rows=max_rows, prefill_tokens=prefill_tokens))
        self.stepper = Stepper(self.runner)

    @property
    def end_ids(self) -> frozenset[int]:
        """What ends an output."""
        return self.defaults.end_ids

    @property
    def defaults(self) -> ModelDefaults:
        """The model's own settings."""
        return ModelDefaults.of(self.loaded.model)

    def sequence(
        self, prompt: Sequence[int], max_tokens: int, controls: Sequence[dict[str, Any]] = (), **more: Any
    ) -> engine_sequence.Sequence:
        """A request for a prompt of tokens."""
        request = EngineRequest(more.pop("id", "x"), "text", parse_controls(list(controls)), max_tokens, **more)
        plan = compile_controls(self.loaded, request.controls) if controls else None
        own = self.defaults
        prepared = Prepared(
            tuple(prompt), max_tokens, plan, request.seed or 0, own.end_ids, start=own.start, first=own.first
        )
        return engine_sequence.Sequence(request, prepared, Handle(request.id, lambda _: None), lambda ids: str(ids))

    def step(self) -> None:
        """One step of what waits and runs."""
        plan = self.scheduler.schedule(0)
        for ended in [*plan.leaving, *self.stepper.deliver(self.stepper.step(plan))]:
            self.scheduler.finish(ended)

    def run(self, *sequences: engine_sequence.Sequence) -> list[Finished | Failed]:
        """All of them, from now to their ends."""
        self.scheduler.add(sequences)
        while self.scheduler.num_waiting or self.scheduler.num_running:
            self.step()
        return [end_of(sequence) for sequence in sequences]

    def run_at_random(self, sequences: Iterable[engine_sequence.Sequence], draw: random.Random, cancel: float) -> None:
        """With random arrivals, and some cancelled on their way."""
        waiting = list(sequences)
        alive: list[engine_sequence.Sequence] = []
        while waiting or self.scheduler.num_waiting or self.scheduler.num_running:
            for _ in range(draw.choice((0, 0, 1, 1, 2, 4))):
                if waiting:
                    alive.append(waiting.pop(0))
                    self.scheduler.add(alive[-1:])
            if alive and draw.random() < cancel:
                gone = self.scheduler.cancel(draw.choice(alive).request.id)
                if gone is not None:
                    gone.finish("cancelled")
            self.step()


def end_of(sequence: engine_sequence.Sequence) -> Finished | Failed:
    """A sequence's last event."""
    assert sequence.end is not None
    return sequence.end


@dataclass
class Solo:
    """What `generate` makes of one request alone: its tokens without the end, and the gap between the best two."""

    tokens: list[int]
    gaps: list[float]
    applied: Any


def solo(driver: Driver, sequence: engine_sequence.Sequence, **settings: Any) -> Solo:
    """Runs one request through `generate` under the same control."""
    ids = torch.tensor([sequence.prepared.prompt_ids])
    model: Any = driver.loaded.model
    plan: CompiledControls | None = sequence.prepared.plan
    with torch.inference_mode(), controlled(driver.loaded, [plan]) as applied:
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sequence.prepared.max_tokens,
            return_dict_in_generate=True,
            output_logits=True,
            **({"do_sample": False, "num_beams": 1} | settings),
        )
    tokens = output.sequences[0].tolist()[1 if model.config.is_encoder_decoder else ids.shape[1] :]
    best = [step[0].float().topk(2).values for step in output.logits]
    ends = [place for place, token in enumerate(tokens) if token in driver.end_ids]
    kept = tokens[: ends[0]] if ends else tokens
    return Solo(kept, [float(top[0] - top[1]) for top in best], applied.report(0))


def random_controls(driver: Driver, draw: random.Random) -> list[dict[str, Any]]:
    """None, or up to two random controls that fit the model."""
    sites = [site for site in driver.loaded.sites.sites if site.kind != "embed"]
    controls = []
    for _ in range(draw.choice((0, 1, 1, 2))):
        site = draw.choice(sites)
        width = driver.loaded.sites.info(site).width
        neurons = ",".join(map(str, sorted(draw.sample(range(width), min(width, 6)))))
        control: dict[str, Any] = {"neurons": f"{site}[{neurons}]", "op": draw.choice(("shift", "clamp", "amplify"))}
        control["value"] = draw.choice((-2.0, 0.5, 3.0))
        if draw.random() < 0.4:
            control["where"] = {"neuron": f"{site}[{draw.randrange(width)}]", "above": 0.0}
        elif site.stack == "decoder" and draw.random() < 0.5:
            control |= draw.choice(({"steps": [1, 4]}, {"phase": "generation"}, {"steps": [0, 2]}))
        controls.append(control)
    return controls
