"""Controls on the rows of running batches: rows come and go between passes, each with its own controls."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch

from neurodial.control.addresses import Site, Stack
from neurodial.control.errors import InternalError
from neurodial.control.models.hooks import SiteFunction
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.runtime.stack import StackController


class BatchController:
    """A model whose batches are under control, row by row; a context manager.

    A *slot* holds one request's controls for as long as it runs. Before each forward pass of a stack `begin` says
    which slot each row of the batch is. On exit nothing stays hooked. Sites that no slot touches have no hook.

    Args:
        loaded: the model; nothing else may run it meanwhile.
        max_rows: number of slots.

    Examples:
        >>> import torch
        >>> from neurodial.control import BatchController, compile_controls, load_model, parse_controls
        >>> loaded = load_model("deploy/demo/en-es")
        >>> quiet = compile_controls(loaded, parse_controls([{"neurons": "encoder.*.ffn[0-9]", "op": "prune"}]))
        >>> ids = torch.tensor([[4, 5, 6], [7, 8, 9]])
        >>> with torch.inference_mode(), BatchController(loaded, max_rows=8) as rows:
        ...     rows.place(5, quiet)
        ...     rows.begin([2, 5], tokens=3, stack="encoder")
        ...     states = loaded.model.get_encoder()(ids).last_hidden_state
        ...     rows.report(5)["controls"][0]["sites"]["encoder.0.ffn"]
        {'neurons': 10, 'positions': 3, 'seen': 3}
    """

    def __init__(self, loaded: LoadedModel, max_rows: int) -> None:
        self.loaded = loaded
        self.max_rows = max_rows
        self._stacks: dict[Stack, StackController] = {
            s: StackController(loaded, s, max_rows) for s in loaded.sites.stacks
        }
        self._compiled: dict[int, CompiledControls] = {}

    def __enter__(self) -> "BatchController":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes every hook; reports can still be read."""
        for stack in self._stacks.values():
            stack.close()

    def place(self, slot: int, compiled: CompiledControls | None) -> None:
        """Gives a slot its controls from the next pass on; its counts start again.

        Args:
            slot: below `max_rows`.
            compiled: None leaves the slot's rows alone.
        """
        if not 0 <= slot < self.max_rows:
            raise InternalError(f"there is no slot {slot}, only {self.max_rows}")
        self._compiled.pop(slot, None)
        if compiled is not None and compiled.controls:
            self._compiled[slot] = compiled
        for name, stack in self._stacks.items():
            stack.place(slot, compiled.programs.get(name) if compiled else None)

    def remove(self, slot: int) -> None:
        """Takes a slot's controls away; its report is gone."""
        self.place(slot, None)

    def needs_steps(self, stack: Stack) -> bool:
        """Whether `begin` must be told the steps of this stack's passes."""
        return self._stacks[stack].needs_steps

    def has_triggers(self, stack: Stack) -> bool:
        """Whether any slot's controls in this stack have triggers."""
        return self._stacks[stack].has_triggers

    def begin(
        self,
        slots: Sequence[int],
        *,
        tokens: int = 1,
        first_steps: Sequence[int] | None = None,
        valid: torch.Tensor | None = None,
        stack: Stack | None = None,
    ) -> None:
        """Announces the next pass of a stack.

        Args:
            slots: row r of the batch is slots[r]; a slot may come several times.
            tokens: positions of each row.
            first_steps: for each row the number of the token that its first position produces; the positions of a
                prompt that produce none have negative numbers. Only phases, steps and triggers ask for it.
            valid: (rows, tokens) bool, False at padding; None where there is none.
            stack: the decoder where absent, of an encoder the encoder.
        """
        chosen: Stack = stack or ("decoder" if "decoder" in self._stacks else "encoder")
        self._stacks[chosen].begin(tuple(slots), tokens, first_steps, valid)

    def intervention(self, site: Site) -> SiteFunction | None:
        """What the slots do at a site, for a compiled graph, in which hooks do not run; None where none does anything."""
        return self._stacks[site.stack].intervention(site)

    def restart(self, stack: Stack) -> None:
        """Switches the triggers of all slots off, as `place` does for one slot: new requests begin."""
        self._stacks[stack].switches.restart()

    def reorder(self, sources: Sequence[int], stack: Stack = "decoder") -> None:
        """Says that a beam search reordered its rows: row r of the last batch goes on as what sources[r] was."""
        self._stacks[stack].reorder(sources)

    def confirm(self) -> None:
        """Makes the passes that were begun so far count, whatever is discarded later."""
        for stack in self._stacks.values():
            stack.confirm()

    def discard(self) -> None:
        """Forgets the passes that were begun last: they failed, and will be begun again or not at all."""
        for stack in self._stacks.values():
            stack.discard()

    def report(self, slot: int) -> dict[str, Any] | None:
        """What a slot's controls did so far: the digest, and per control its facts and, per site, counts.

        `positions` counts where a control acted, `seen` where its gate was asked; `trigger` says at which steps the
        detector fired and at how many the control was on. None without controls.
        """
        compiled = self._compiled.get(slot)
        if compiled is None:
            return None
        report = compiled.summary(lambda effect: self._stacks[effect.site.stack].counts(slot, effect.condition))
        for control, told in zip(compiled.controls, report["controls"], strict=True):
            for trigger in {e.condition.trigger for e in control.effects if e.condition.trigger}:
                told["trigger"] = self._stacks["decoder"].switches.report(slot, trigger)
        return report
