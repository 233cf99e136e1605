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
from neurodial.control.models.hooks import SiteFunction, SiteHook, hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.plans.gates import Gate, as_readout
from neurodial.control.plans.program import ALWAYS, EVER, FOREVER, Condition, Effect, SlotProgram
from neurodial.control.runtime.masks import Selector
from neurodial.control.runtime.site import SlotBuffers, updated

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
            site: CompiledSite(site, loaded.sites.info(site).width, max_rows, gate_classes, loaded.model.device)
            for site in declared
        }
        self._hooks: list[SiteHook] = []

    def __enter__(self) -> "CompiledController":
        self._hooks = [hook_site(self.loaded.sites.info(site), self._function(site)) for site in self._sites]
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
        for number, control in enumerate(compiled.controls if compiled else ()):
            for effect in control.effects:
                self._check(effect, f"controls[{number}]")
        programs = compiled.programs if compiled else {}
        for site, updates in (item for program in programs.values() for item in program.updates.items()):
            if len(updates) > 1:
                raise ControlError(f"{site}: in a compiled model the controls of a site share one gate and window")
        for site, buffers in self._sites.items():
            buffers.place(slot, programs.get(site.stack))
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
        return compiled.summary() if compiled is not None and compiled.controls else None

    def _function(self, site: Site) -> SiteFunction:
        buffers, first = self._sites[site], self._first[site.stack]

        def apply(x: torch.Tensor) -> torch.Tensor:
            rows = slice(x.shape[0])  # row r of a batch is slot r
            return buffers.apply(x, rows, first[rows])

        return apply

    def _check(self, effect: Effect, here: str) -> None:
        if effect.site not in self._sites:
            raise ControlError(
                f"{here}: {effect.site} is not among the sites that were declared before the model was compiled",
                param=here,
                hint=f"declared: {', '.join(map(str, self._sites))}",
            )
        if effect.linear is not None:
            raise ControlError(f"{here}.op: a compiled model cannot apply a map", param=f"{here}.op", hint="use shift")
        if effect.condition.trigger is not None:
            raise ControlError(f"{here}.when: a compiled model has no triggers", param=f"{here}.when")
        if effect.condition.gate is not None:
            self._sites[effect.site].check_gate(effect.condition.gate, f"{here}.where")


class CompiledSite:
    """The buffers of one declared site, and what a compiled graph makes of them.

    Beside scale and shift every slot has a window of steps, and a gate as a linear read-out of the site: the identity
    is every step, and the same score for every class, at all of which it fires.

    Args:
        site: the declared one.
        width: of the site.
        slots: how many there are.
        classes: how many a gate may tell apart.
        device: of the buffers.
    """

    def __init__(self, site: Site, width: int, slots: int, classes: int, device: torch.device) -> None:
        self._site, self._width, self._classes = site, width, classes
        self._buffers = SlotBuffers(slots, width, device)
        with torch.inference_mode(False):
            self._low = torch.full((slots, 1), -FOREVER, device=device)
            self._high = torch.full((slots, 1), FOREVER, device=device)
            self._weights = torch.zeros(slots, classes, width, device=device)
            self._bias = torch.zeros(slots, 1, classes, device=device)
            self._fires = torch.ones(slots, classes, dtype=torch.bool, device=device)

    def check_gate(self, gate: Gate, param: str) -> None:
        """Refuses what is not a read-out of this site with few enough classes."""
        if gate.site != self._site:
            raise ControlError(
                f"{param}: in a compiled model a gate reads where its control writes, at {self._site}", param=param
            )
        needed = len(as_readout(gate, self._width)[1])
        if needed > self._classes:
            raise ControlError(
                f"{param}: the gate tells {needed} classes apart, the model was prepared for {self._classes}",
                param=param,
                hint=f"gate_classes={needed}",
            )

    def place(self, slot: int, program: SlotProgram | None) -> None:
        """Replaces what a slot does, in place."""
        update = next(iter(program.updates.get(self._site, ())), None) if program else None
        condition = program.conditions[update.condition] if program and update else ALWAYS
        self._buffers.write(slot, update)
        self._write_condition(slot, condition)

    def _write_condition(self, slot: int, condition: Condition) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._low[slot], self._high[slot] = EVER if self._site.stack == "encoder" else condition.window
            if not self._classes:
                return
            self._weights[slot] = 0.0
            self._bias[slot] = 0.0
            self._fires[slot] = True
            if condition.gate is not None:
                weights, bias, fires = as_readout(condition.gate, self._width)
                self._weights[slot, : len(bias)] = weights.to(self._weights.device)
                self._bias[slot, 0] = _NEVER
                self._bias[slot, 0, : len(bias)] = bias.to(self._bias.device)
                self._fires[slot] = False
                self._fires[slot, : len(bias)] = fires.to(self._fires.device)

    def apply(self, x: torch.Tensor, slots: Selector, first: torch.Tensor) -> torch.Tensor:
        """The site's new values.

        Args:
            x: (rows, tokens, width); activations that are packed token by token are rows of one token each.
            slots: of the rows.
            first: (rows, 1) the step of each row's first position.
        """
        wide = x if x.dtype == torch.float32 else x.float()
        new = updated(wide, self._buffers.scale[slots], self._buffers.shift[slots])
        steps = first + torch.arange(x.shape[1], device=x.device)
        acts = (self._low[slots] <= steps) & (steps < self._high[slots])
        if self._classes:
            label = torch.baddbmm(self._bias[slots], wide, self._weights[slots].transpose(1, 2)).argmax(-1)
            acts = acts & self._fires[slots].gather(1, label)
        return torch.where(acts[..., None], new, wide).to(x.dtype)
