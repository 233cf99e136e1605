"""The slots of one stack: what each does, and the pass that is under way."""

from collections.abc import Sequence

import torch

from neurodial.control.addresses import Site, Stack
from neurodial.control.errors import InternalError
from neurodial.control.models.hooks import SiteHook, hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.program import Condition, SlotProgram
from neurodial.control.runtime.plan import BatchPlan, SlotState
from neurodial.control.runtime.site import SiteIntervention
from neurodial.control.runtime.triggers import Switches, copies_of


class StackController:
    """The slots of one stack, each with the program that one request's controls are there.

    Args:
        loaded: the model.
        stack: encoder or decoder.
        max_rows: number of slots.

    Attributes:
        needs_steps: whether `begin` must be told the steps of the passes.
        has_triggers: whether any slot's controls have triggers.
        switches: of the triggers.
    """

    def __init__(self, loaded: LoadedModel, stack: Stack, max_rows: int) -> None:
        self.needs_steps = self.has_triggers = False
        self.switches = Switches()
        self._loaded, self._stack, self._max_rows = loaded, stack, max_rows
        self._states: dict[int, SlotState] = {}
        self._sites: dict[Site, SiteIntervention] = {}
        self._hooks: dict[Site, SiteHook] = {}
        self._plan: BatchPlan | None = None  # None once a slot has changed
        self._key: tuple[object, ...] = ()
        self._slots: Sequence[int] = ()  # of the last pass

    def place(self, slot: int, program: SlotProgram | None) -> None:
        """Replaces what a slot does; its counts start again. Sites that no slot needs lose their hooks."""
        if slot not in self._states and program is None:
            return
        self._add_up()
        self._plan = None
        self.switches.drop(slot)
        self._states.pop(slot, None)
        if program is not None:
            self._states[slot] = SlotState(program)
        programs = [state.program for state in self._states.values()]
        self.has_triggers = any(program.is_triggered for program in programs)
        self.needs_steps = any(program.is_scoped for program in programs)
        needed = frozenset[Site]().union(*(program.sites for program in programs))
        for site in self._sites.keys() - needed:
            del self._sites[site]
            self._hooks.pop(site).remove()
        for site in needed - self._sites.keys():
            self._open(site)
        for site, intervention in self._sites.items():
            intervention.write(slot, program.updates.get(site, ()) if program else ())

    def counts(self, slot: int, condition: Condition) -> dict[str, int]:
        """Positions of a slot so far under one of its conditions."""
        self._add_up()
        state = self._states[slot]
        return state.counts[state.program.conditions.index(condition)]

    def intervention(self, site: Site) -> SiteIntervention | None:
        """See `BatchController.intervention`."""
        return self._sites.get(site)

    def reorder(self, sources: Sequence[int]) -> None:
        """Row r of the last pass's batch goes on as what row sources[r] has been so far."""
        if self.has_triggers:
            self.switches.reorder(self._slots, sources)

    def begin(
        self, slots: tuple[int, ...], tokens: int, first: Sequence[int] | None, valid: torch.Tensor | None
    ) -> None:
        """Starts a pass of this stack; see `BatchController.begin`."""
        if self._plan is not None:
            self._plan.finish()
        if not self._states:
            return
        standings = {}
        if self.needs_steps:
            if first is None:
                raise InternalError("these controls have phases, steps or triggers: say the steps of the pass")
            self.switches.commit()
            rows = {row: self._states[slot] for row, slot in enumerate(slots) if slot in self._states}
            if any(state.program.is_triggered for state in rows.values()):
                self.switches.begin(tokens, first, valid)
            copies = copies_of(slots)
            for row, state in rows.items():
                if state.program.is_scoped:
                    start, stop = first[row], first[row] + tokens
                    standings[row] = state.standing(slots[row], copies[row], start, stop, self.switches)
        padded = valid is not None and tokens > 1  # a single position of padding is that of a finished row: harmless
        key = slots, padded, standings, torch.is_grad_enabled()
        if self._plan is None or key != self._key:
            self._add_up()
            with torch.inference_mode(False), torch.set_grad_enabled(key[3]):
                device = self._loaded.model.device
                self._plan = BatchPlan(
                    slots, self._states, standings, self._sites, self.switches, padded=padded, device=device
                )
            self._key, self._slots = key, slots
        self._plan.start(tokens, first, valid)

    def confirm(self) -> None:
        """Makes the pass that was begun last count: it has ended well."""
        if self._plan is not None:
            self._plan.finish()
        self.switches.commit()

    def discard(self) -> None:
        """Forgets the pass that was begun last: it failed and will be run again."""
        if self._plan is not None:
            self._plan.discard()
        self.switches.discard()

    def close(self) -> None:
        """Removes every hook; reports remain."""
        self.confirm()
        while self._hooks:
            self._hooks.popitem()[1].remove()

    def _add_up(self) -> None:
        if self._plan is not None:
            self._plan.add_up()

    def _open(self, site: Site) -> None:
        info = self._loaded.sites.info(site)
        parameter = next(info.module.parameters(), None)
        device = self._loaded.model.device if parameter is None else parameter.device
        self._sites[site] = SiteIntervention(self._max_rows, info.width, device)
        self._hooks[site] = hook_site(info, self._sites[site])
