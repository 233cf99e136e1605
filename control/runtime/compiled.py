"""Controls in compiled and captured models: buffers that lie still, with identity values until a control is placed.

A compiled model cannot be given new hooks. The sites that controls may touch are declared before it is compiled; from
then on a control is nothing but other numbers in the same tensors, so that nothing is compiled anew.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch

from neurodial.control.addresses import Site, expand_layers
from neurodial.control.errors import ControlError, InternalError
from neurodial.control.models.hooks import SiteHook, hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import FOREVER, CompiledControls, Effect
from neurodial.control.plans.gates import ConceptGate, Gate
from neurodial.control.plans.program import ALWAYS, EVER, Condition, SiteUpdate, stages_of
from neurodial.control.runtime.masks import PassMasks
from neurodial.control.runtime.site import SiteIntervention

_NEVER = -3e38  # the score of a class that no gate uses: below any real one


class CompiledController:
    """A model whose declared sites are under control, row by row, also once it is compiled; a context manager.

    Row r of every batch has the controls of slot r. On exit all buffers are the identity again and the hooks are gone:
    a model that was compiled inside the block then runs as if there had never been controls.

    Supported are clamp, amplify, shift and prune, with strength, phases and steps, and gates that read at the touched
    site itself. Maps, triggers, gates elsewhere and several conditions at one site are refused. Positions that are
    padding are written too, which the other positions do not notice: attention leaves padding out.

    Args:
        loaded: the model, before it is compiled.
        sites: what controls may touch, such as `decoder.2.ffn`, `encoder.*.resid`.
        max_rows: the largest batch.
        gate_classes: how many classes a gate may tell apart, 0 for no gates; a gate on one neuron takes 2, or 3 with
            both bounds, a neuron set's gate one more than it has labels.

    Raises:
        AddressError: if the model has no such site.
        ControlError: for a model whose convolutions read padding (some of DeBERTa-v2).

    Examples:
        >>> import torch
        >>> from neurodial.control import CompiledController, compile_controls, load_model, parse_controls
        >>> loaded = load_model("deploy/demo/en-es")
        >>> quiet = compile_controls(loaded, parse_controls([{"neurons": "encoder.1.ffn[0-9]", "op": "prune"}]))
        >>> ids = torch.tensor([[4, 5, 6], [4, 5, 6]])
        >>> with CompiledController(loaded, ["encoder.*.ffn"], max_rows=2) as rows, torch.inference_mode():
        ...     encoder = torch.compile(loaded.model.get_encoder(), backend="eager")
        ...     plain = encoder(ids).last_hidden_state
        ...     rows.place(1, quiet)
        ...     states = encoder(ids).last_hidden_state
        >>> torch.equal(plain[0], states[0]), torch.equal(plain[1], states[1])
        (True, False)
    """

    def __init__(
        self, loaded: LoadedModel, sites: Sequence[Site | str], max_rows: int, *, gate_classes: int = 0
    ) -> None:
        if getattr(loaded.model.config, "conv_kernel_size", 0):
            raise ControlError("a convolution of this model reads padding, which compiled controls write")
        self.loaded = loaded
        self.max_rows = max_rows
        self._compiled: dict[int, CompiledControls] = {}
        counts = {stack: len(layers) for stack, layers in loaded.sites.layers.items()}
        declared = [Site.parse(one) for site in sites for one in expand_layers(str(site), counts)]
        self._first = {s: torch.zeros(max_rows, 1, dtype=torch.long, device=loaded.model.device) for s in counts}
        self._sites = {
            site: _StaticSite(loaded, site, self._first[site.stack], max_rows, gate_classes) for site in declared
        }
        self._hooks: list[SiteHook] = []

    def __enter__(self) -> "CompiledController":
        self._hooks = [hook_site(self.loaded.sites.info(site), buffers) for site, buffers in self._sites.items()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slot in list(self._compiled):
            self.remove(slot)
        while self._hooks:
            self._hooks.pop().remove()

    def place(self, slot: int, compiled: CompiledControls | None) -> None:
        """Gives row `slot` of the batches its controls from the next pass on.

        Raises:
            ControlError: naming the control that a compiled model cannot apply; the slot keeps what it had.
        """
        if not 0 <= slot < self.max_rows:
            raise InternalError(f"there is no slot {slot}, only {self.max_rows}")
        effects = [(Condition.of(e), e) for c in (compiled.controls if compiled else ()) for e in c.effects]
        for number, control in enumerate(compiled.controls if compiled else ()):
            for effect in control.effects:
                self._check(effect, f"controls[{number}]")
        stages = stages_of(effects)
        for site, found in stages.items():
            if len(found) > 1:
                raise ControlError(f"{site}: in a compiled model the controls of a site share one gate and window")
        for site, buffers in self._sites.items():
            buffers.write(slot, stages.get(site, []))
        self._compiled.pop(slot, None)
        if compiled is not None:
            self._compiled[slot] = compiled

    def remove(self, slot: int) -> None:
        """Takes a slot's controls away."""
        self.place(slot, None)

    def begin(self, first_steps: Sequence[int], stack: str = "decoder") -> None:
        """Says, before a pass, which token the first position of each row produces; phases and steps need it.

        Args:
            first_steps: for each row; below zero for positions of a prompt that produce none.
            stack: whose pass it is.
        """
        with torch.inference_mode(False):
            for name, first in self._first.items():
                if name == stack:
                    first[: len(first_steps), 0] = torch.tensor(list(first_steps), device=first.device)

    def report(self, slot: int) -> dict[str, Any] | None:
        """The digest and, per control, its facts and neurons; a compiled model does not count positions."""
        compiled = self._compiled.get(slot)
        if compiled is None or not compiled.controls:
            return None
        reports = [
            control.facts | {"sites": {str(e.site): {"neurons": len(e.neurons)} for e in control.effects}}
            for control in compiled.controls
        ]
        return {"digest": compiled.digest, "controls": reports}

    def _check(self, effect: Effect, here: str) -> None:
        if effect.site not in self._sites:
            raise ControlError(
                f"{here}: {effect.site} is not among the sites that were declared before the model was compiled",
                param=here,
                hint=f"declared: {', '.join(map(str, self._sites))}",
            )
        if effect.linear is not None:
            raise ControlError(f"{here}.op: a compiled model cannot apply a map", param=f"{here}.op", hint="use shift")
        if effect.trigger is not None:
            raise ControlError(f"{here}.when: a compiled model has no triggers", param=f"{here}.when")
        self._sites[effect.site].check_gate(effect.gate, f"{here}.where")


class _StaticSite:
    """The buffers of one declared site, and what the compiled graph makes of them."""

    def __init__(self, loaded: LoadedModel, site: Site, first: torch.Tensor, max_rows: int, classes: int) -> None:
        info = loaded.sites.info(site)
        device = loaded.model.device
        self.site, self.classes = site, classes
        self.tables = SiteIntervention(info.width, max_rows, device, PassMasks())
        with torch.inference_mode(False):
            self.scale, self.shift = self.tables.open_table()
            self.first = first
            self.low = torch.full((max_rows, 1), -FOREVER, device=device)
            self.high = torch.full((max_rows, 1), FOREVER, device=device)
            self.weights = torch.zeros(max_rows, classes, info.width, device=device)
            self.bias = torch.zeros(max_rows, 1, classes, device=device)
            self.fires = torch.ones(max_rows, classes, dtype=torch.bool, device=device)

    def check_gate(self, gate: Gate | None, param: str) -> None:
        """Refuses what is not a read-out of this site with few enough classes."""
        if gate is None:
            return
        if gate.site != self.site:
            raise ControlError(
                f"{param}: in a compiled model a gate reads where its control writes, at {self.site}",
                param=param,
            )
        needed = len(_linear(gate, self.tables.width)[1])
        if needed > self.classes:
            raise ControlError(
                f"{param}: the gate tells {needed} classes apart, the model was prepared for {self.classes}",
                param=param,
                hint=f"gate_classes={needed}",
            )

    def write(self, slot: int, stages: Sequence[SiteUpdate]) -> None:
        """Replaces what a row does, in place."""
        self.tables.write(slot, stages)
        condition = stages[0].condition if stages else ALWAYS
        window = EVER if self.site.stack == "encoder" else condition.window
        with torch.inference_mode(False), torch.no_grad():
            self.low[slot], self.high[slot] = window
            if not self.classes:
                return
            self.weights[slot] = 0.0
            self.bias[slot] = 0.0
            self.fires[slot] = True
            if condition.gate is not None:
                weights, bias, fires = _linear(condition.gate, self.tables.width)
                count = len(bias)
                self.weights[slot, :count] = weights.to(self.weights.device)
                self.bias[slot, 0] = _NEVER
                self.bias[slot, 0, :count] = bias.to(self.bias.device)
                self.fires[slot] = False
                self.fires[slot, :count] = fires.to(self.fires.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """What the graph computes; x (rows, tokens, width)."""
        rows, tokens = x.shape[0], x.shape[1]
        wide = x if x.dtype == torch.float32 else x.float()
        new = torch.addcmul(self.shift[:rows], wide, self.scale[:rows])
        steps = self.first[:rows] + torch.arange(tokens, device=x.device)
        acts = (self.low[:rows] <= steps) & (steps < self.high[:rows])
        if self.classes:
            label = torch.baddbmm(self.bias[:rows], wide, self.weights[:rows].transpose(1, 2)).argmax(-1)
            acts = acts & self.fires[:rows].gather(1, label)
        return torch.where(acts[..., None], new, wide).to(x.dtype)


def _linear(gate: Gate, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A gate as a linear read-out: weights (classes, width), bias (classes,) and where it fires (classes,).

    The first of equal scores wins: at a threshold itself, that is a class where the gate does not fire.
    """
    if isinstance(gate, ConceptGate):
        bias = torch.from_numpy(gate.readout.bias)
        weights = torch.zeros(len(bias), width)
        weights[:, torch.from_numpy(gate.readout.indices)] = torch.from_numpy(gate.readout.weights)
        return weights, bias, torch.tensor([n in gate.classes for n in range(len(bias))])
    if gate.above is not None and gate.below is not None:
        slopes, offsets = [0.0, 2.0, 1.0], [0.0, -gate.above - gate.below, -gate.above]
    else:
        sign, bound = (1.0, gate.above) if gate.below is None else (-1.0, gate.below)
        slopes, offsets = [0.0, sign], [0.0, -sign * (bound or 0.0)]
    weights = torch.zeros(len(slopes), width)
    weights[:, gate.neuron] = torch.tensor(slopes)
    fires = [False] * (len(slopes) - 1) + [True]
    return weights, torch.tensor(offsets), torch.tensor(fires)
