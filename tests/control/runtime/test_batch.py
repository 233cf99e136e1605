"""Rows that come and go, as an engine runs them: slots, explicit passes, failures."""

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from neurodial.control.controls import parse_controls
from neurodial.control.errors import InternalError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.control.runtime.batch import BatchController
from neurodial.control.runtime.generate import controlled
from tests.tiny import load_tiny


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return load_tiny("llama")


def plan(loaded: LoadedModel, *raw: dict[str, Any]) -> CompiledControls:
    return compile_controls(loaded, parse_controls(list(raw)))


def hooks(loaded: LoadedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in loaded.model.modules())


WINDOWED = {"neurons": "decoder.0.ffn[*]", "op": "shift", "value": 1.0, "steps": [1, 3]}
GATED = {
    "neurons": "decoder.*.resid[0-9]",
    "op": "amplify",
    "value": 3.0,
    "where": {"neuron": "decoder.embed[2]", "above": 0.0},
}
PLAIN = {"neurons": "decoder.1.attn.head[1]", "op": "clamp", "value": 0.7}
TRIGGERED = {
    "neurons": "decoder.1.ffn[*]",
    "op": "amplify",
    "value": -1.0,
    "when": {"neuron": "decoder.0.resid[3]", "above": 0.1, "until_below": -0.2},
}


def solo(loaded: LoadedModel, ids: list[int], compiled: CompiledControls | None, steps: int) -> tuple[list[int], Any]:
    model: Any = loaded.model
    with torch.inference_mode(), controlled(loaded, [compiled]) as applied:
        out = model.generate(torch.tensor([ids]), max_new_tokens=steps, do_sample=False, eos_token_id=[])
    return out[0, len(ids) :].tolist(), applied.report(0)


def fail(*_: Any) -> None:
    raise KeyboardInterrupt


class Engine:
    """The least engine: each row its own cache while it reads, one merged pass a step for all rows of equal length."""

    def __init__(self, loaded: LoadedModel, rows: BatchController) -> None:
        self.loaded, self.rows = loaded, rows
        self.tokens: dict[int, list[int]] = {}
        self.prompts: dict[int, int] = {}

    def join(self, slot: int, ids: list[int], compiled: CompiledControls | None) -> None:
        self.rows.place(slot, compiled)
        self.tokens[slot], self.prompts[slot] = list(ids), len(ids)

    def step(self) -> None:
        """Runs every row over all its tokens so far, left-padded, without a cache: each pass is several steps long."""
        slots = list(self.tokens)
        longest = max(map(len, self.tokens.values()))
        ids = torch.zeros(len(slots), longest, dtype=torch.long)
        valid = torch.zeros(len(slots), longest, dtype=torch.bool)
        for row, slot in enumerate(slots):
            ids[row, longest - len(self.tokens[slot]) :] = torch.tensor(self.tokens[slot])
            valid[row, longest - len(self.tokens[slot]) :] = True
        first = [1 - self.prompts[s] - (longest - len(self.tokens[s])) for s in slots]
        self.rows.begin(slots, tokens=longest, first_steps=first, valid=valid)
        positions = (valid.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = self.loaded.model(ids, attention_mask=valid.long(), position_ids=positions, use_cache=False).logits
        for row, slot in enumerate(slots):
            self.tokens[slot].append(int(logits[row, -1].argmax()))

    def leave(self, slot: int) -> list[int]:
        self.rows.remove(slot)
        return self.tokens.pop(slot)[self.prompts.pop(slot) :]


def test_rows_join_and_leave_without_touching_one_another(llama: LoadedModel) -> None:
    plans = [plan(llama, WINDOWED, PLAIN), None, plan(llama, GATED), plan(llama, PLAIN)]
    prompts = [[5, 6, 7], [8, 9], [4, 5, 6, 7, 8], [11]]
    with BatchController(llama, max_rows=4) as rows:
        engine = Engine(llama, rows)
        engine.join(2, prompts[0], plans[0])
        engine.step()
        engine.join(0, prompts[1], plans[1])
        engine.join(3, prompts[2], plans[2])
        for _ in range(3):
            engine.step()
        found = [engine.leave(2)]
        engine.join(2, prompts[3], plans[3])
        for _ in range(3):
            engine.step()
        found += [engine.leave(0), engine.leave(3), engine.leave(2)]
        assert hooks(llama) == 0, "the hooks of the last row go with it"
    lengths = [4, 6, 6, 3]
    alone = [solo(llama, p, c, n)[0] for p, c, n in zip(prompts, plans, lengths, strict=True)]
    assert found == alone
    assert alone[0] != solo(llama, prompts[0], None, 4)[0]


def test_explicit_passes_count_and_trigger_as_generate_does(llama: LoadedModel) -> None:
    """Two slots out of order, a cache, a pass that fails and is run again."""
    controls = [plan(llama, TRIGGERED, GATED), plan(llama, WINDOWED, TRIGGERED)]
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    model: Any = llama.model
    with torch.inference_mode(), controlled(llama, controls) as applied:
        expected = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=[])[:, 4:]
    reports = [applied.report(0), applied.report(1)]
    with BatchController(llama, max_rows=8) as rows, torch.inference_mode():
        rows.place(6, controls[0])
        rows.place(1, controls[1])
        cache, tokens, found = DynamicCache(), ids, []
        for step in range(6):
            start = -3 if step == 0 else step
            if step == 3:  # a pass that does not come to its end leaves no trace
                rows.begin([6, 1], tokens=1, first_steps=[start] * 2)
                failing = llama.sites.layers["decoder"][1].module.register_forward_pre_hook(fail)
                with pytest.raises(KeyboardInterrupt):
                    model(tokens + 20, past_key_values=copy.deepcopy(cache), use_cache=True)
                failing.remove()
                rows.discard()
            rows.begin([6, 1], tokens=tokens.shape[1], first_steps=[start] * 2)
            tokens = model(tokens, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            found.append(tokens)
        assert torch.equal(torch.cat(found, 1), expected)
        assert [rows.report(6), rows.report(1)] == reports
    fired = [report["controls"][number]["trigger"]["fired_at"] for number, report in enumerate(reports) if report]
    assert all(fired), "a trigger never fired: the test shows nothing"


def test_misuse_is_told(llama: LoadedModel) -> None:
    with BatchController(llama, max_rows=2) as rows, torch.inference_mode():
        with pytest.raises(InternalError, match="no slot 2"):
            rows.place(2, None)
        rows.place(0, plan(llama, WINDOWED))
        with pytest.raises(InternalError, match="say the steps"):
            rows.begin([0])
        rows.place(1, plan(llama, PLAIN))
        rows.begin([0, 1], tokens=3, first_steps=[-2, -2])
        with pytest.raises(InternalError, match="does not fit"):
            llama.model(torch.tensor([[4, 5, 6]]))
    assert hooks(llama) == 0


def test_nothing_stays_hooked_after_an_exception_in_the_middle_of_a_pass(llama: LoadedModel) -> None:
    ids = torch.tensor([[4, 5, 6]])
    with torch.inference_mode():
        before = llama.model(ids).logits

    failing = llama.sites.layers["decoder"][1].module.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt), controlled(llama, [plan(llama, GATED, PLAIN, TRIGGERED)]):
        llama.model(ids)
    failing.remove()
    assert hooks(llama) == 0
    with torch.inference_mode():
        assert torch.equal(llama.model(ids).logits, before)


def test_rows_without_controls_have_no_hooks(llama: LoadedModel) -> None:
    with controlled(llama, [None, None]):
        assert hooks(llama) == 0
    with controlled(llama, [None, plan(llama, PLAIN)]):
        assert hooks(llama) == 2  # the site and the stack's passes
    assert hooks(llama) == 0


def test_a_program_that_changes_between_forward_and_backward(llama: LoadedModel) -> None:
    """Backward must find what forward used, though a window was left in between."""
    first = plan(llama, {"neurons": "decoder.1.ffn[*]", "op": "amplify", "value": 2.0, "steps": [0, 1]})
    embed = llama.model.get_input_embeddings()
    with controlled(llama, [first]):
        x = embed(torch.tensor([[4, 5, 6]])).detach().requires_grad_()
        out = llama.model(inputs_embeds=x, use_cache=True)
        with torch.no_grad():
            llama.model(torch.tensor([[7]]), past_key_values=out.past_key_values)
        out.logits[0, -1].sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)


def test_gradients_flow_through_gates_at_several_sites(llama: LoadedModel) -> None:
    """A later gate must not touch what backward needs of an earlier one."""
    gated = [
        GATED | {"neurons": f"decoder.{n}.ffn[*]", "where": {"neuron": f"decoder.{n}.ffn[1]", "above": 0.0}}
        for n in (0, 1)
    ]
    x = llama.model.get_input_embeddings()(torch.tensor([[4, 5, 6]])).detach().requires_grad_()
    with controlled(llama, [plan(llama, *gated)]):
        llama.model(inputs_embeds=x).logits.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)


def test_gradients_equal_finite_differences_through_every_kind_of_control() -> None:
    loaded = load_tiny("llama", dtype=torch.float64)
    controls = plan(loaded, PLAIN, GATED, {"neurons": "decoder.0.ffn[3-30]", "op": "amplify", "value": -0.5})
    x = torch.randn(1, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def loss(x: torch.Tensor) -> torch.Tensor:
        with controlled(loaded, [controls]):
            total: torch.Tensor = loaded.model(inputs_embeds=x).logits.square().mean()
        return total

    assert torch.autograd.gradcheck(loss, (x,), atol=1e-3, rtol=1e-3, nondet_tol=1e-9, fast_mode=True, eps=1e-4)
