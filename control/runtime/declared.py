"""What tables that never grow must hold: declared before a model is compiled, and what of it a program needs."""

from collections.abc import Iterator
from dataclasses import dataclass

from neurodial.control.errors import ControlError
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.plans.gates import ConceptGate
from neurodial.control.plans.program import SiteUpdate, SlotProgram


@dataclass(frozen=True)
class Declared:
    """How much controls may ask for.

    Attributes:
        slots: distinct lists of controls at once.
        rows: requests under control at once.
        tokens: of one pass.
        steps: of one request, prompt and output together.
        neurons: of one update at one site.
        reads: neurons that a map or a concept's read-out reads.
        updates: at one site in one list of controls, each under a condition of its own.
        conditions: distinct ones in one list of controls.
        gates: whether there are any.
        readouts: distinct read-outs of concepts at one site at once.
        classes: that such a read-out tells apart.
        maps: distinct maps at one site at once.
        triggers: distinct ones in one list of controls.
    """

    slots: int
    rows: int
    tokens: int
    steps: int
    neurons: int = 256
    reads: int = 1024
    updates: int = 2
    conditions: int = 8
    gates: bool = True
    readouts: int = 4
    classes: int = 8
    maps: int = 4
    triggers: int = 2

    def check(self, compiled: CompiledControls, field: str = "controls") -> None:
        """Refuses controls that the tables cannot hold.

        Raises:
            ControlError: naming the field and the setting that would have to be larger.
        """
        for number, control in enumerate(compiled.controls):
            here = f"{field}[{number}]"
            for effect in control.effects:
                named = f"{here}.set" if control.facts.get("set") else f"{here}.neurons"
                _within(len(effect.neurons), self.neurons, f"neurons at {effect.site}", "neurons", named)
                if effect.condition.gate is not None and not self.gates:
                    raise ControlError(f"{here}.where: this server has no gates", param=f"{here}.where", hint="gates")
                if effect.condition.trigger is not None:
                    _within(1, self.triggers, "triggers", "triggers", f"{here}.when")
        for program in compiled.programs.values():
            for count, most, what, setting in self._needs(program):
                _within(count, most, what, setting, field)

    def _needs(self, program: SlotProgram) -> Iterator[tuple[int, int, str, str]]:
        yield len(program.conditions), self.conditions, "different conditions", "conditions"
        triggers = {condition.trigger for condition in program.conditions if condition.trigger}
        yield len(triggers), self.triggers, "different triggers", "triggers"
        for condition in program.conditions:
            if isinstance(condition.gate, ConceptGate):
                readout = condition.gate.readout
                yield 1, self.readouts, "read-outs", "readouts"
                yield len(readout.indices), self.reads, f"neurons read at {readout.site}", "reads"
                yield len(readout.bias), self.classes, f"classes of a gate at {readout.site}", "classes"
        for site, updates in program.updates.items():
            yield len(updates), self.updates, f"updates under different conditions at {site}", "updates"
            for update in updates:
                yield len(update.neurons), self.neurons, f"neurons at {site}", "neurons"
                yield from self._of_map(update, str(site))

    def _of_map(self, update: SiteUpdate, site: str) -> Iterator[tuple[int, int, str, str]]:
        if update.map is not None and update.map.linear is not None:
            yield 1, self.maps, f"maps at {site}", "maps"
            yield len(update.map.linear.read), self.reads, f"neurons that a map reads at {site}", "reads"

    def bytes_of(self, width: int) -> int:
        """Memory of the tables of one site.

        Args:
            width: of the site.
        """
        neurons, reads = min(self.neurons, width), min(self.reads, width)
        updates = self.slots * self.updates * neurons * 16
        gates = self.gates * self.slots * self.conditions * 17
        of_readouts = self.readouts * reads * (8 + 4 * self.classes) + self.slots * self.conditions * (8 + self.classes)
        of_maps = self.maps * (reads * 12 + neurons * (12 + 4 * reads))
        return updates + gates + self.gates * of_readouts + of_maps + self.slots * self.triggers * 9


def _within(count: int, most: int, what: str, setting: str, field: str) -> None:
    if count > most:
        raise ControlError(
            f"{field}: {count:,} {what}; this server was started for at most {most:,}",
            param=field,
            hint=f"ask for less, or start it with a larger {setting!r}",
        )
