"""Pointing every site of a stack at what one batch needs: rows of the tables, masks, gates to read, counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from neurodial.control.addresses import Site, Stack
from neurodial.control.plans.compiling import CompiledControls, Effect
from neurodial.control.plans.gates import ConceptGate, Gate, ThresholdGate, Trigger
from neurodial.control.plans.program import ALWAYS, EVER, Condition, SiteUpdate, Window, stages_of
from neurodial.control.runtime.counting import Counted, Counts
from neurodial.control.runtime.masks import ConceptReader, GateReader, PassMasks, ThresholdReader
from neurodial.control.runtime.site import Selector, SiteIntervention
from neurodial.control.runtime.triggers import DetectorReader, Switches, copies_of

Pair = tuple[int, Condition]  # a row of the batch and a condition of its slot


@dataclass(eq=False)
class SlotProgram:
    """What one request's controls are in one stack, the same for every slot that has them.

    Attributes:
        effects: in the order of their controls, each with its condition.
        conditions: the distinct ones.
        windows: the distinct ones that are not everywhere.
        written: the sites that it writes.
        sites: where it writes or reads.
        is_plain: everything acts everywhere.
        is_triggered: some of it waits for a trigger.
        stages: its updates by site, where no window decides about them from pass to pass.
    """

    effects: list[tuple[Condition, Effect]]

    def __post_init__(self) -> None:
        self.conditions = tuple(dict.fromkeys(condition for condition, _ in self.effects))
        self.windows = tuple(dict.fromkeys(c.window for c in self.conditions if c.window != EVER))
        self.written = {effect.site for _, effect in self.effects}
        self.sites = self.written.union(*(condition.sites for condition in self.conditions))
        self.is_plain = self.conditions == (ALWAYS,)
        self.is_triggered = any(condition.trigger for condition in self.conditions)
        self.stages = {} if self.windows else stages_of(self.effects)


@lru_cache(512)
def part_of(compiled: CompiledControls, stack: Stack) -> SlotProgram:
    """What a request's controls are in a stack; found once."""
    effects = [effect for control in compiled.controls for effect in control.effects if effect.site.stack == stack]
    return SlotProgram([(Condition.of(effect), effect) for effect in effects])


@dataclass(eq=False)
class SlotState:
    """One slot's controls in one stack.

    Attributes:
        part: the controls.
        pattern: for each window whether it holds all, none or some (None) of the positions of the slot's last pass.
        counts: positions so far by condition.
    """

    part: SlotProgram
    pattern: tuple[bool | None, ...] | None = None

    def __post_init__(self) -> None:
        self.conditions, self.windows = self.part.conditions, self.part.windows
        self.is_plain, self.sites = self.part.is_plain, self.part.sites
        self.counts = {condition: Counts() for condition in self.conditions}

    def stages(self) -> dict[Site, list[SiteUpdate]]:
        """The updates at each site that it touches in the slot's last pass."""
        if not self.windows:
            return self.part.stages
        holding = [(c, effect) for c, effect in self.part.effects if self.holds(c.window) is not False]
        return stages_of([(self.mask_of(condition), effect) for condition, effect in holding])

    def holds(self, window: Window) -> bool | None:
        """Whether a window holds all, none or some (None) of the positions of the slot's last pass."""
        if window == EVER or self.pattern is None:
            return True
        return self.pattern[self.windows.index(window)]

    def mask_of(self, condition: Condition) -> Condition:
        """The condition by which a mask is found: ALWAYS where the steps of the pass decide already."""
        if self.holds(condition.window):
            return Condition(gate=condition.gate, trigger=condition.trigger)
        return condition


@dataclass(eq=False)
class BatchPlan:
    """What one batch needs in its passes.

    Attributes:
        num_rows: of the batch.
        rows: (pairs,) rows of the batch, one for each row of the masks.
        counted: where its counts come from.
        bounds: (pairs, 1) each: the windows, where some hold only some positions of a pass.
        switches: (pairs,) places of the triggers' switches, where there are triggers.
        has_gates: whether a gate decides about any pair.
        whole: whether one look at a gate's site makes all masks.
    """

    num_rows: int
    rows: torch.Tensor
    counted: tuple[Counted, ...]
    bounds: tuple[torch.Tensor, torch.Tensor] | None
    switches: torch.Tensor | None
    has_gates: bool
    whole: bool

    def start_masks(
        self,
        masks: PassMasks,
        tokens: int,
        first: Sequence[int] | None,
        valid: torch.Tensor | None,
        state: torch.Tensor,
    ) -> None:
        """Makes the masks of a pass as far as they do not depend on gates."""
        device, count = self.rows.device, len(self.rows)
        masks.base = None
        if self.whole or not count:
            masks.fired = torch.empty(0, 0, dtype=torch.bool, device=device)
            return
        masks.fired = torch.ones(count + 1, tokens, dtype=torch.bool, device=device)  # the last row is: everywhere
        if valid is not None:
            masks.fired[:count] = valid.to(device)[self.rows]
        if self.bounds is not None and first is not None:
            steps = torch.tensor(first, device=device)[self.rows, None] + torch.arange(tokens, device=device)
            masks.fired[:count] &= (self.bounds[0] <= steps) & (steps < self.bounds[1])
        if self.switches is not None:
            masks.fired[:count] &= state[self.switches, None]
        if valid is not None or self.bounds is not None or self.switches is not None:
            masks.base = masks.fired.clone() if self.has_gates else masks.fired


def arrange(
    slots: Sequence[int],
    lanes: Mapping[int, SlotState],
    sites: Mapping[Site, SiteIntervention],
    switches: Switches,
    *,
    padded: bool,
    device: torch.device,
) -> BatchPlan:
    """Prepares the sites for a batch whose row r is slots[r].

    Args:
        slots: of the rows.
        lanes: the slots that do anything in this stack.
        sites: the tables.
        switches: of the triggers.
        padded: whether positions that are padding have to be left alone.
        device: of the masks.
    """
    pairs = list(_pairs(slots, lanes, padded))
    place = {pair: number for number, pair in enumerate(pairs)}
    rows = selector(slots, device)
    everywhere = False
    for tables in sites.values():
        masks: list[Selector | None] = [] if pairs else [None] * tables.num_stages(slots)
        for chosen in _stage_masks(slots, tables, place) if pairs else ():
            if any(number is not None for number in chosen):
                everywhere = everywhere or None in chosen
                masks.append(selector([len(pairs) if n is None else n for n in chosen], device))
            else:
                masks.append(None)
        tables.readers = []
        tables.prepare(slots, rows, masks)
    bounds = _bounds(pairs, device)
    groups = list(_gate_groups(pairs))
    switched = _switched(pairs, slots, switches, device)
    only_gates = bounds is None and switched is None and not everywhere
    whole = only_gates and len(groups) == 1 and groups[0][0] == slice(0, len(pairs))
    for where, gates in groups:
        tables = sites[gates[0][1].site]
        tables.readers.append(_reader(gates, len(slots), where, whole, tables.device))
    for site, found in _detectors(slots, lanes, switches).items():
        sites[site].readers.append(DetectorReader.build(switches, found, sites[site].device))
    counted = tuple(_counted(slots, lanes, place))
    pair_rows = torch.tensor([row for row, _ in pairs], dtype=torch.long, device=device)
    return BatchPlan(len(slots), pair_rows, counted, bounds, switched, bool(groups), whole)


def selector(rows: Sequence[int], device: torch.device) -> Selector:
    """A slice where the rows follow one another, otherwise an index tensor."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, device=device)


def _pairs(slots: Sequence[int], lanes: Mapping[int, SlotState], padded: bool) -> Iterator[Pair]:
    """The rows and conditions that need a mask; those that one look decides follow one another."""
    if padded:
        yield from ((row, ALWAYS) for row in range(len(slots)))
    found: dict[Pair, None] = {}
    for row, slot in enumerate(slots):
        lane = lanes.get(slot)
        for condition in lane.conditions if lane and not lane.is_plain else ():
            if lane and lane.holds(condition.window) is not False and lane.mask_of(condition) != ALWAYS:
                found[row, lane.mask_of(condition)] = None
    groups = list(dict.fromkeys(_gate_group(condition.gate) for _, condition in found))
    yield from sorted(found, key=lambda pair: groups.index(_gate_group(pair[1].gate)))


def _stage_masks(
    slots: Sequence[int], tables: SiteIntervention, place: Mapping[Pair, int]
) -> Iterator[list[int | None]]:
    """For each stage of a site the pair that says where each row acts, None for everywhere."""
    here = [tables.stages_of(slot) for slot in slots]
    for number in range(max(map(len, here), default=0)):
        chosen: list[int | None] = []
        for row, stages in enumerate(here):
            condition = stages[number].condition if number < len(stages) else ALWAYS
            chosen.append(place.get((row, condition)))
        yield chosen


def _gate_group(gate: Gate | None) -> object:
    """Equal for gates that one look at a site decides together."""
    return id(gate.readout) if isinstance(gate, ConceptGate) else gate and gate.site


def _gate_groups(pairs: Sequence[Pair]) -> Iterator[tuple[slice, list[tuple[int, Gate]]]]:
    start = 0
    while start < len(pairs):
        stop, group = start, _gate_group(pairs[start][1].gate)
        gates: list[tuple[int, Gate]] = []
        while stop < len(pairs) and _gate_group(pairs[stop][1].gate) == group:
            row, condition = pairs[stop]
            if condition.gate is not None:
                gates.append((row, condition.gate))
            stop += 1
        if gates:
            yield slice(start, stop), gates
        start = stop


def _reader(
    gates: list[tuple[int, Gate]], num_rows: int, where: slice, whole: bool, device: torch.device
) -> GateReader:
    thresholds = [(row, gate) for row, gate in gates if isinstance(gate, ThresholdGate)]
    if thresholds:
        return ThresholdReader.build(thresholds, num_rows, where, whole, device)
    concepts = [(row, gate) for row, gate in gates if isinstance(gate, ConceptGate)]
    return ConceptReader.build(concepts, num_rows, where, whole, device)


def _bounds(pairs: Sequence[Pair], device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Each pair's window, where some windows hold only some positions of the passes."""
    if all(condition.window == EVER for _, condition in pairs):
        return None
    low = torch.tensor([condition.window[0] for _, condition in pairs], device=device)[:, None]
    return low, torch.tensor([condition.window[1] for _, condition in pairs], device=device)[:, None]


def _switched(
    pairs: Sequence[Pair], slots: Sequence[int], switches: Switches, device: torch.device
) -> torch.Tensor | None:
    """The place of each pair's switch, 0 for those without."""
    copies = copies_of(slots)
    places = [switches.place((slots[row], copies[row], c.trigger)) if c.trigger else 0 for row, c in pairs]
    return torch.tensor(places, device=device) if any(places) else None


def _detectors(
    slots: Sequence[int], lanes: Mapping[int, SlotState], switches: Switches
) -> dict[Site, list[tuple[int, int, Trigger]]]:
    """For each site the rows, switches and triggers that read there, whether they matter in this pass or not."""
    found: dict[Site, list[tuple[int, int, Trigger]]] = {}
    for row, (slot, copy) in enumerate(zip(slots, copies_of(slots), strict=True)):
        lane = lanes.get(slot)
        for trigger in dict.fromkeys(c.trigger for c in lane.conditions if c.trigger) if lane else ():
            found.setdefault(trigger.site, []).append((row, switches.place((slot, copy, trigger)), trigger))
    return found


def _counted(slots: Sequence[int], lanes: Mapping[int, SlotState], place: Mapping[Pair, int]) -> Iterator[Counted]:
    first: dict[int, int] = {}  # of a beam search, the first beam
    for row, slot in enumerate(slots):
        first.setdefault(slot, row)
    for slot, row in first.items():
        lane = lanes.get(slot)
        if lane and lane.is_plain:
            yield Counted(row, place.get((row, ALWAYS)) if place else None, lane.counts[ALWAYS])
            continue
        for condition in lane.conditions if lane else ():
            if lane and lane.holds(condition.window) is not False:
                yield Counted(row, place.get((row, lane.mask_of(condition))), lane.counts[condition])
