"""Tables of packed tokens do what `controlled` does, request by request, whatever shares their passes."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.errors import ControlError, Overloaded
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.control.runtime.declared import Declared
from neurodial.control.runtime.generate import controlled
from neurodial.control.runtime.packed import PackedController
from neurodial.control.runtime.packed_site import PackedSite
from tests.control.runtime.reference import concept_set, random_control
from tests.tiny import EOS, PAD, VOCABULARY, load_tiny

DECLARED = Declared(
    slots=13, rows=13, tokens=64, steps=64, neurons=64, reads=64, updates=4, conditions=8, maps=8, readouts=8, classes=3
)


def applied(opened: PackedSite, x: torch.Tensor) -> torch.Tensor:
    """A site's new values: the tables write in place."""
    flat = x[0].clone()
    opened.apply(flat)
    return flat[None]


@contextmanager
def packed(loaded: LoadedModel, *, static: bool, declared: Declared = DECLARED) -> Iterator[PackedController]:
    """A model under tables; each of its passes is one request's, (1, tokens)."""
    controller = PackedController(declared, torch.device("cpu"), static=static)
    hooks = []
    for site, info in loaded.sites.sites.items():
        opened = controller.open(site, info.width, (0, info.width))
        hooks.append(hook_site(info, partial(applied, opened)))
    yield controller
    for hook in hooks:
        hook.remove()


def drawn(loaded: LoadedModel, draw: random.Random, sets: SetCatalogue) -> CompiledControls | None:
    """Up to three controls of any kind that tables of this size hold."""
    while True:
        raw = [random_control(loaded, draw, sets.names()) for _ in range(draw.randint(0, 3))]
        compiled = compile_controls(loaded, parse_controls(raw), sets)
        try:
            DECLARED.check(compiled)
        except ControlError:
            continue
        return compiled if compiled.controls else None


class Request:
    """One request as a serving engine runs it: a prompt in chunks, then token by token; it may be preempted."""

    def __init__(self, loaded: LoadedModel, draw: random.Random, compiled: CompiledControls | None, name: str) -> None:
        self.loaded, self.draw, self.compiled, self.name = loaded, draw, compiled, name
        self.prompt = [draw.randrange(2, VOCABULARY - 2) for _ in range(draw.randint(1, 9))]
        self.length = draw.randint(1, 8)
        self.tokens: list[int] = []
        self.cache: Any = None
        self.done = 0

    def step(self, controller: PackedController) -> bool:
        """One pass; whether there is more to do."""
        if self.draw.random() < 0.1:
            self.cache, self.done = None, 0  # preempted: all is run again
        ids = self.prompt + self.tokens
        take = self.draw.randint(1, len(ids) - self.done)
        controller.begin([self.name], [take], [self.done - len(self.prompt) + 1])
        output = self.loaded.model(
            torch.tensor([ids[self.done : self.done + take]]), past_key_values=self.cache, use_cache=True
        )
        self.cache, self.done = output.past_key_values, self.done + take
        if self.done == len(ids):
            output.logits[0, -1, PAD] = -torch.inf
            self.tokens.append(int(output.logits[0, -1].argmax()))
        return len(self.tokens) < self.length and EOS not in self.tokens

    def alone(self) -> tuple[list[int], Any]:
        """The same by `controlled`: tokens, and the report."""
        ids = torch.tensor([self.prompt])
        model: Any = self.loaded.model
        with controlled(self.loaded, [self.compiled]) as applied:
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.length,
                do_sample=False,
                suppress_tokens=[PAD],
            )
        return output[0, len(self.prompt) :].tolist(), applied.report(0)


def programs(compiled: CompiledControls) -> Any:
    """Makes the decoder's program."""
    return lambda: compiled.programs["decoder"]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_requests_share_tables_and_never_notice(name: str, static: bool) -> None:
    """All operations, gates, phases, steps and triggers; chunks, preemption, requests that come and go."""
    loaded, draw = load_tiny(name, seed=3), random.Random(name)
    sets = SetCatalogue({str(n): concept_set(loaded, str(n), n) for n in range(2)})
    with torch.inference_mode():
        requests = [Request(loaded, draw, drawn(loaded, draw, sets), str(n)) for n in range(40)]
        expected = [request.alone() for request in requests]
        waiting, running = list(requests), list[Request]()
        with packed(loaded, static=static) as controller:
            while waiting or running:
                while waiting and len(running) < 12:
                    running.append(waiting.pop(0))
                    if (compiled := running[-1].compiled) is not None:
                        digest = compiled.digest
                        controller.admit(running[-1].name, running[-1].name, digest, programs(compiled))
                request = draw.choice(running)
                if not request.step(controller):
                    running.remove(request)
                    controller.retire([request.name])
            for request, (tokens, report) in zip(requests, expected, strict=True):
                assert request.tokens == tokens, request.name
                if request.compiled is None:
                    continue
                (done,) = controller.take(request.name, len(tokens))
                program = request.compiled.programs["decoder"]
                for control, told in zip(request.compiled.controls, report["controls"], strict=True):
                    for effect in control.effects:
                        counts = done["conditions"][program.conditions.index(effect.condition)]
                        site = told["sites"][str(effect.site)]
                        assert counts == [site["positions"], site["seen"]]


def compiled_of(loaded: LoadedModel, *raw: dict[str, Any]) -> CompiledControls:
    """Controls without sets."""
    return compile_controls(loaded, parse_controls(list(raw)))


def test_equal_controls_share_a_slot_and_a_full_table_changes_nothing() -> None:
    """Slots are told by their digest; what does not fit is refused, and the next request finds all as it was."""
    loaded = load_tiny("llama")
    few = Declared(slots=3, rows=9, tokens=16, steps=16)
    shifts = [compiled_of(loaded, {"neurons": f"decoder.0.ffn[{n}]", "op": "shift", "value": 1.0}) for n in range(3)]
    with packed(loaded, static=False, declared=few) as controller:
        for number in range(4):
            controller.admit(f"a{number}", "a", shifts[0].digest, programs(shifts[0]))
        controller.admit("b", "b", shifts[1].digest, programs(shifts[1]))
        with pytest.raises(Overloaded):
            controller.admit("c", "c", shifts[2].digest, programs(shifts[2]))
        assert not controller.holds("c")
        controller.retire(["b"])
        controller.admit("c", "c", shifts[2].digest, programs(shifts[2]))
        assert controller.holds("c")


def test_a_map_for_which_there_is_no_place_leaves_no_trace() -> None:
    """The slot that was being filled is clear again."""
    loaded = load_tiny("llama")
    sets = SetCatalogue({str(n): concept_set(loaded, str(n), 7 + n) for n in range(2)})
    maps = [
        compile_controls(loaded, parse_controls([{"set": name, "to": "past", "op": "map", "where": "all"}]), sets)
        for name in sets.names()
    ]
    one = Declared(slots=9, rows=9, tokens=16, steps=16, maps=1)
    ids = torch.tensor([[4, 5, 6]])
    with torch.inference_mode(), packed(loaded, static=True, declared=one) as controller:
        plain = loaded.model(ids).logits
        controller.admit("a", "a", maps[0].digest, programs(maps[0]))
        same = {effect.site for effect in maps[0].controls[0].effects} & {e.site for e in maps[1].controls[0].effects}
        if same:
            with pytest.raises(Overloaded):
                controller.admit("b", "b", maps[1].digest, programs(maps[1]))
        controller.retire(["a"])
        controller.begin(["c"], [3], [-2])
        assert torch.equal(loaded.model(ids).logits, plain)
        controller.admit("b", "b", maps[1].digest, programs(maps[1]))
        controller.begin(["b"], [3], [-2])
        assert not torch.equal(loaded.model(ids).logits, plain)


def test_a_probe_reaches_the_output_from_every_site_and_is_gone_afterwards() -> None:
    """What a server checks before it serves."""
    loaded, ids = load_tiny("llama"), torch.tensor([[4, 5, 6]])
    with torch.inference_mode(), packed(loaded, static=False) as controller:
        plain = loaded.model(ids).logits
        for site in controller.sites:
            with controller.probing(site):
                assert loaded.model(ids).logits.isnan().any(), site
            assert torch.equal(loaded.model(ids).logits, plain)


def test_states_that_are_not_numbers_name_their_request() -> None:
    """Only requests with controls are looked at, by their last position."""
    loaded = load_tiny("llama")
    shift = compiled_of(loaded, {"neurons": "decoder.0.ffn[0]", "op": "shift", "value": 1.0})
    with packed(loaded, static=False) as controller:
        controller.admit("b", "key", shift.digest, programs(shift))
        controller.begin(["a", "b"], [2, 2], [-1, -1])
        states = torch.zeros(4, 8)
        states[1] = torch.nan
        controller.look(states)
        assert controller.broken()() == {}
        states[3, 5] = torch.inf
        controller.begin(["a", "b"], [2, 2], [1, 1])
        controller.look(states)
        assert controller.broken()() == {"b": "key"}


def test_what_the_tables_cannot_hold_names_the_field_and_the_setting() -> None:
    """At admission, before anything runs."""
    loaded = load_tiny("llama")
    few = Declared(slots=2, rows=2, tokens=8, steps=8, neurons=2, gates=False, triggers=0, updates=1)
    with pytest.raises(ControlError, match=r"controls\[0\].neurons: 3 neurons .* at most 2") as error:
        few.check(compiled_of(loaded, {"neurons": "decoder.0.ffn[0-2]", "op": "prune"}))
    assert error.value.param == "controls[0].neurons"
    neuron = {"neuron": "decoder.0.ffn[1]", "above": 0.0}
    with pytest.raises(ControlError, match=r"controls\[0\].where"):
        few.check(compiled_of(loaded, {"neurons": "decoder.0.ffn[0]", "op": "prune", "where": neuron}))
    with pytest.raises(ControlError, match=r"controls\[0\].when"):
        few.check(compiled_of(loaded, {"neurons": "decoder.0.ffn[0]", "op": "prune", "when": neuron}))
    prompt, rest = (
        {"neurons": "decoder.0.ffn[0]", "op": "shift", "value": 1.0, "phase": phase}
        for phase in ("prompt", "generation")
    )
    with pytest.raises(ControlError, match=r"2 updates under different conditions at decoder[.]0[.]ffn"):
        few.check(compiled_of(loaded, prompt, rest))
