"""Controls on batches whose tokens are packed one after another, by tables that lie still: what a serving engine runs.

A *slot* holds one list of controls for all requests that have it; a *row* is one request, with counts and switches of
its own. Before each pass `begin` says which spans of tokens are whose.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import NeurodialError, Overloaded
from neurodial.control.plans.program import Effect, SlotProgram
from neurodial.control.runtime.declared import Declared
from neurodial.control.runtime.packed_pass import PackedPass, Span, numbers_of
from neurodial.control.runtime.packed_site import PackedSite, Uses, uses_of

_KEPT = 1024  # reports of requests that have ended and that nobody has asked for yet


@dataclass
class _Slot:
    program: SlotProgram
    digest: str
    uses: dict[Site, Uses]
    holders: set[str]


@dataclass
class _Row:
    number: int
    slot: int
    key: str
    fresh: int = -(2**31)
    last_pass: int = -(2**31)


@dataclass(frozen=True)
class _Ended:
    """What is kept of a row whose request has ended."""

    program: SlotProgram
    report: Mapping[str, torch.Tensor]
    last_pass: int


class PackedController:
    """The tables of a model's declared sites, and who holds what in them.

    Args:
        declared: what the tables must hold.
        device: of the tables.
        static: whether all tables are applied in every pass, as in graphs that are captured once; otherwise only what
            the batch needs.
    """

    def __init__(self, declared: Declared, device: torch.device, *, static: bool) -> None:
        self.declared, self._device, self._static = declared, device, static
        self._pass = PackedPass(declared, device)
        self._sites: dict[Site, PackedSite] = {}
        self._slots: dict[int, _Slot] = {}
        self._rows: dict[str, _Row] = {}
        self._ended: OrderedDict[str, list[_Ended]] = OrderedDict()
        self._active: frozenset[int] | None = frozenset()  # the slots that the sites' uses are for; None if not known
        self._was_busy = self._is_probing = False
        self._broken: tuple[list[tuple[str, str]], torch.Tensor] | None = None
        self._ends: list[tuple[int, str, str]] = []  # of the pass: each controlled request's last position

    def open(self, site: Site, width: int, part: tuple[int, int]) -> PackedSite:
        """Declares a site; see `PackedSite`."""
        opened = PackedSite(site, width, part, self.declared, self._pass, self._device)
        if self._static:
            opened.uses = opened.everything()
        self._sites[site] = opened
        return opened

    @property
    def sites(self) -> Mapping[Site, PackedSite]:
        """Those that are declared."""
        return self._sites

    def holds(self, request: str) -> bool:
        """Whether a request has a row."""
        return request in self._rows

    @torch.inference_mode()
    def admit(self, request: str, key: str, digest: str, program: Callable[[], SlotProgram]) -> None:
        """Gives a request a row, and its controls a slot.

        Args:
            request: unique among those that run.
            key: by which its report is asked for.
            digest: of its controls; requests with the same one share a slot.
            program: makes what the controls do, where no slot holds it.

        Raises:
            Overloaded: if no row or slot is free; nothing has changed then.
        """
        number = _free({row.number for row in self._rows.values()}, self.declared.rows)
        slot = next((n for n, held in self._slots.items() if held.digest == digest), None)
        if slot is None:
            slot = _free(self._slots, self.declared.slots)
            self._fill(slot, digest, program())
        self._pass.forget(number)
        self._rows[request] = _Row(number, slot, key)
        self._slots[slot].holders.add(request)

    @torch.inference_mode()
    def retire(self, requests: Iterable[str]) -> None:
        """Lets the rows of requests that have ended go; their reports stay until they are taken."""
        ended = [(request, self._rows[request]) for request in requests if request in self._rows]
        if ended:
            self._pass.finish()
        for request, row in ended:
            del self._rows[request]
            held = self._slots[row.slot]
            report = _Ended(held.program, self._pass.report(row.number, row.fresh), row.last_pass)
            self._ended.setdefault(row.key, []).append(report)
            held.holders.discard(request)
            if not held.holders:
                self._clear(row.slot)
        while len(self._ended) > _KEPT:
            self._ended.popitem(last=False)

    @torch.inference_mode()
    def take(self, key: str, tokens: int) -> list[dict[str, Any]]:
        """What the requests of a key did, one entry for each; of those that have ended nothing is kept.

        Args:
            key: of the requests.
            tokens: that each has generated.
        """
        running = [(request, row) for request, row in self._rows.items() if row.key == key]
        parts = self._ended.pop(key, [])
        if running:
            self._pass.finish()
        for _, row in running:
            program = self._slots[row.slot].program
            parts.append(_Ended(program, self._pass.report(row.number, row.fresh), row.last_pass))
        return [numbers_of(part.program, part.report, part.last_pass, tokens) for part in parts]

    @torch.inference_mode()
    def look(self, states: torch.Tensor) -> None:
        """Looks for requests under control whose last states, (tokens, width), are not numbers."""
        if self._ends:
            ends = torch.tensor([end for end, _, _ in self._ends], device=states.device)
            self._broken = [end[1:] for end in self._ends], (~states[ends].isfinite()).any(-1)

    def broken(self) -> Callable[[], dict[str, str]]:
        """Waits for what the last look found: request → key."""
        if self._broken is None:
            return dict
        (requests, found), self._broken = self._broken, None
        if found.device.type == "cpu":
            return lambda: {
                request: key for (request, key), is_bad in zip(requests, found.tolist(), strict=True) if is_bad
            }
        copied, arrived = found.to("cpu", non_blocking=True), torch.Event(found.device)
        arrived.record()

        def waited() -> dict[str, str]:
            arrived.synchronize()
            return {request: key for (request, key), is_bad in zip(requests, copied.tolist(), strict=True) if is_bad}

        return waited

    @contextmanager
    def probing(self, site: Site) -> Iterator[None]:
        """Has a site make every value of every pass something that is not a number, to see that it acts at all."""
        opened = self._sites[site]
        neuron, one = torch.tensor([opened.part[0]]), torch.ones(1)
        with torch.inference_mode():
            self.admit("", "", "", lambda: SlotProgram([Effect(site, neuron, one, one * torch.nan)]))
            self._pass.everywhere(self._rows[""].slot)
            self._point(frozenset({self._rows[""].slot}))
        self._is_probing = True
        yield
        self._is_probing = False
        with torch.inference_mode():
            self._pass.everywhere(0)
            self.retire([""])
            self.take("", 0)

    @torch.inference_mode()
    def begin(self, requests: Sequence[str], tokens: Sequence[int], first_steps: Sequence[int]) -> None:
        """Announces a pass, and counts the one before.

        Args:
            requests: whose tokens follow one another in the pass.
            tokens: of each.
            first_steps: for each the step of its first token: the number of the token that it produces, below zero for
                those of a prompt that produce none.
        """
        if self._is_probing:
            return
        spans, place = [], 0
        self._broken, self._ends = None, []
        for request, count, first in zip(requests, tokens, first_steps, strict=True):
            place += int(count)
            row = self._rows.get(request)
            if row is None:
                spans.append(Span(0, 0, int(count), int(first), 0))
                continue
            is_triggered = self._slots[row.slot].program.is_triggered
            spans.append(Span(row.number, row.slot, int(count), int(first), row.fresh, is_triggered))
            self._ends.append((place - 1, request, row.key))
            row.fresh, row.last_pass = max(row.fresh, int(first + count)), int(first)
        slots = frozenset(span.slot for span in spans if span.slot)
        if slots or self._was_busy or self._static:
            self._pass.begin(spans)
        self._was_busy = bool(slots)
        if slots != self._active:
            self._point(slots)

    def _point(self, slots: frozenset[int]) -> None:
        """Tells every site what the slots of a batch need there."""
        self._active = slots
        if self._static:
            return
        for site, opened in self._sites.items():
            opened.uses = uses_of([held for n in slots if (held := self._slots[n].uses.get(site)) is not None])

    def _fill(self, slot: int, digest: str, program: SlotProgram) -> None:
        uses: dict[Site, Uses] = {}
        try:
            for site in program.sites & self._sites.keys():
                uses[site] = self._sites[site].write(slot, program)
        except NeurodialError:
            self._wipe(slot, program)
            raise
        self._pass.write(slot, program)
        self._slots[slot] = _Slot(program, digest, uses, set())
        self._active = None

    def _clear(self, slot: int) -> None:
        self._wipe(slot, self._slots.pop(slot).program)
        self._active = None

    def _wipe(self, slot: int, program: SlotProgram) -> None:
        for site in program.sites & self._sites.keys():
            self._sites[site].clear(slot)
        self._pass.write(slot, None)


def _free(used: Iterable[int], size: int) -> int:
    """The first free one of numbers from 1."""
    taken = set(used)
    for number in range(1, size):
        if number not in taken:
            return number
    raise Overloaded(
        f"{size - 1} different lists of controls or requests with controls run", hint="try again in a moment"
    )
