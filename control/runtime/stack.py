"""The slots of one stack: what each does, and the pass that is under way."""

from collections.abc import Sequence

import torch

from neurodial.control.addresses import Site, Stack
from neurodial.control.models.hooks import SiteHook, hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.plans.gates import Trigger
from neurodial.control.plans.program import Condition, Window
from neurodial.control.runtime.counting import Counts, GateCounter
from neurodial.control.runtime.masks import PassMasks
from neurodial.control.runtime.plan import BatchPlan, SlotState, arrange, part_of
from neurodial.control.runtime.site import SiteIntervention
from neurodial.control.runtime.triggers import Events, Switches


class StackController:
    """The slots of one stack, each with the effects that one request has there.

    Args:
        loaded: the model.
        stack: encoder or decoder.
        max_rows: number of slots.
    """

    def __init__(self, loaded: LoadedModel, stack: Stack, max_rows: int) -> None:
        self.max_rows = max_rows
        self._loaded, self._stack = loaded, stack
        self._lanes: dict[int, SlotState] = {}
        self._sites: dict[Site, SiteIntervention] = {}
        self._hooks: dict[Site, SiteHook] = {}
        self._masks, self._tally = PassMasks(), GateCounter()
        self._switches = Switches(loaded.model.device)
        self._layout: BatchPlan | None = None
        self._key: object = None
        self._version = 0
        self.needs_steps = False
        self.has_triggers = False

    def place(self, slot: int, compiled: CompiledControls | None) -> None:
        """Replaces a slot's controls; its counts start again."""
        self.clear(slot)
        part = part_of(compiled, self._stack) if compiled else None
        if part is None or not part.effects:
            return
        self._lanes[slot] = lane = SlotState(part)
        self._note_needs()
        for site in lane.sites:
            self._open_site(site)
        if not lane.windows:
            self._write(slot, lane)

    def clear(self, slot: int) -> None:
        """Takes a slot's controls away, and the hooks that no other slot needs."""
        lane = self._lanes.pop(slot, None)
        if lane is None:
            return
        self._tally.flush(self._masks)
        for site in lane.part.written:
            self._sites[site].write(slot, ())
        self._switches.drop(slot)
        self._note_needs()
        self._version += 1
        for site in lane.sites:
            if not any(site in other.sites for other in self._lanes.values()):
                del self._sites[site]
                self._hooks.pop(site).remove()

    def counts(self, slot: int) -> dict[Condition, Counts]:
        """Positions of a slot so far, by condition."""
        self._tally.flush(self._masks)
        return self._lanes[slot].counts if slot in self._lanes else {}

    def events(self, slot: int, trigger: Trigger) -> Events:
        """What a slot's trigger did so far."""
        return self._switches.events(slot, trigger)

    def restart(self) -> None:
        """Switches every trigger off: new requests begin."""
        self._switches.restart()

    def reorder(self, sources: Sequence[int]) -> None:
        """Row r of the last pass's batch goes on as what row sources[r] has been so far."""
        if isinstance(self._key, tuple) and self.has_triggers:
            self._switches.reorder(self._key[0], sources)

    def begin(
        self, slots: tuple[int, ...], tokens: int, first: Sequence[int] | None, valid: torch.Tensor | None
    ) -> None:
        """Starts a pass of this stack.

        Args:
            slots: of the batch's rows.
            tokens: positions of each row.
            first: the step of each row's first position; needed where `needs_steps`.
            valid: (rows, tokens) bool, False at padding.
        """
        self._tally.finish(self._masks)
        if not self._lanes:
            return
        if self.has_triggers and first is not None:
            self._switches.commit()
            if any(self._is_triggered(slot) for slot in slots):
                self._switches.begin(tokens, first, valid)
        if self.needs_steps and first is not None:
            self._follow_windows(slots, tokens, first)
        padded = valid is not None and tokens > 1  # a single position of padding is that of a finished row: harmless
        key = slots, padded, self._version, torch.is_grad_enabled()
        if self._layout is None or key != self._key:
            with torch.inference_mode(False), torch.set_grad_enabled(key[3]):
                device = self._loaded.model.device
                self._layout = arrange(slots, self._lanes, self._sites, self._switches, padded=padded, device=device)
            self._key = key
        layout = self._layout
        if layout.counted:
            layout.start_masks(self._masks, tokens, first, valid if padded else None, self._switches.state)
            self._tally.start(layout.counted, layout.rows, layout.num_rows, tokens, valid)

    def confirm(self) -> None:
        """Makes the pass that was begun last count: it has ended well."""
        self._tally.finish(self._masks)
        self._switches.commit()

    def discard(self) -> None:
        """Forgets the pass that was begun last: it failed and will be run again."""
        self._tally.discard()
        self._switches.discard()

    def close(self) -> None:
        """Removes every hook; reports remain."""
        self._tally.flush(self._masks)
        self._switches.commit()
        while self._hooks:
            self._hooks.popitem()[1].remove()

    def _is_triggered(self, slot: int) -> bool:
        return slot in self._lanes and self._lanes[slot].part.is_triggered

    def _note_needs(self) -> None:
        self.has_triggers = any(map(self._is_triggered, self._lanes))
        self.needs_steps = self.has_triggers or any(lane.windows for lane in self._lanes.values())

    def _open_site(self, site: Site) -> None:
        if site in self._sites:
            return
        info = self._loaded.sites.info(site)
        parameter = next(info.module.parameters(), None)
        device = self._loaded.model.device if parameter is None else parameter.device
        self._sites[site] = SiteIntervention(info.width, self.max_rows, device, self._masks)
        self._hooks[site] = hook_site(info, self._sites[site])

    def _write(self, slot: int, lane: SlotState) -> None:
        stages = lane.stages()
        for site in lane.part.written:
            self._sites[site].write(slot, stages.get(site, ()))
        self._version += 1

    def _follow_windows(self, slots: tuple[int, ...], tokens: int, first: Sequence[int]) -> None:
        """Rewrites the slots that enter or leave a window with this pass."""
        for slot, start in zip(slots, first, strict=True):
            lane = self._lanes.get(slot)
            if lane is None or not lane.windows:
                continue
            pattern = tuple(_holds(window, start, start + tokens) for window in lane.windows)
            if pattern != lane.pattern:
                lane.pattern = pattern
                self._write(slot, lane)


def _holds(window: Window, start: int, stop: int) -> bool | None:
    """Whether a window holds all, none or some (None) of the steps from start to before stop."""
    if window[0] <= start and stop <= window[1]:
        return True
    return False if stop <= window[0] or window[1] <= start else None
