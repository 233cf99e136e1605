"""What names of neuron sets stand for at one moment, and who may use them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from neurodial.control.controls import Control
from neurodial.control.errors import BadInput, ControlError, NotFound, Unavailable
from neurodial.service.access.auth import ANYONE, Principal
from neurodial.service.engine.types import SetInfo
from neurodial.service.errors import Forbidden

_DIGEST = re.compile(r"sha256:[0-9a-f]{4,64}")


@dataclass(frozen=True)
class Entry:
    """One name of one model.

    Attributes:
        model: whose it is.
        name: as requests write it.
        info: of the neuron set that it stands for.
        history: earlier digests, which requests may still ask for by name and digest, the latest last.
    """

    model: str
    name: str
    info: SetInfo
    history: tuple[str, ...] = ()


class Names:
    """The catalogue at one moment; a request looks everything up in one of these.

    Args:
        entries: model → name → entry.
    """

    def __init__(self, entries: Mapping[str, Mapping[str, Entry]]) -> None:
        self._entries = entries

    def resolve(self, model: str, controls: tuple[Control, ...], principal: Principal = ANYONE) -> tuple[Control, ...]:
        """Checks what controls refer to and pins every name to the digest that it has now.

        Args:
            model: that the controls are for.
            controls: of a request.
            principal: who asks.

        Returns:
            The controls with `set` as `name@sha256:<all digits>`, which no later change of the name can touch.

        Raises:
            Forbidden: for a set or an address that the principal may not use.
            ControlError: for a name or digest that there is not.
        """
        return tuple(
            self._resolved(model, control, f"controls[{number}]", principal) for number, control in enumerate(controls)
        )

    def pin(self, model: str, reference: str, principal: Principal = ANYONE, *, field: str = "set") -> str:
        """One reference, `tense` or `tense@sha256:ab12…`, with all digits of its digest; raises as `resolve` does."""
        name, at, digits = reference.partition("@")
        if not principal.may_use(model, name):
            message = f"{field}: {principal.name} may not use the neuron set {name[:80]!r}"
            raise Forbidden(message, hint="GET /v1/controls lists those that it may use", param=field)
        return f"{name}@{self._digest(model, name, digits if at else None, field, principal)}"

    def entries(self, model: str | None = None, principal: Principal = ANYONE) -> list[Entry]:
        """The names that a principal may use, of one model or of all, sorted."""
        models = list(self._entries) if model is None else [model]
        named = [entry for m in models for _, entry in sorted(self._entries.get(m, {}).items())]
        return [entry for entry in named if principal.may_use(entry.model, entry.name)]

    def entry(self, name: str, model: str | None = None, principal: Principal = ANYONE) -> Entry:
        """One name.

        Args:
            name: of the set.
            model: whose; not needed where only one model has it.
            principal: who asks.

        Raises:
            NotFound: if there is none that the principal may use.
            BadInput: if several models have it and none is given.
        """
        found = [entry for entry in self.entries(model, principal) if entry.name == name]
        if not found:
            raise NotFound(f"there is no neuron set {name[:80]!r}", hint="GET /v1/controls lists them", param="name")
        if len(found) > 1:
            models = ", ".join(entry.model for entry in found)
            raise BadInput(f"several models have {name!r}", hint=f"add ?model= with one of {models}", param="model")
        return found[0]

    def _resolved(self, model: str, control: Control, here: str, principal: Principal) -> Control:
        for address, part in (
            (control.neurons, "neurons"),
            (getattr(control.where, "neuron", None), "where.neuron"),
            (control.when, "when.neuron"),
        ):
            if address is not None:
                principal.require_inline(f"{here}.{part}")
        if control.set is None:
            return control
        return control.model_copy(update={"set": self.pin(model, control.set, principal, field=f"{here}.set")})

    def _digest(self, model: str, name: str, digits: str | None, field: str, principal: Principal) -> str:
        named = self._entries.get(model)
        if named is None:
            raise Unavailable(f"the neuron sets of {model} are not known yet", hint="try again")
        entry = named.get(name)
        if entry is None:
            known = ", ".join(e.name for e in self.entries(model, principal)) or "none"
            raise ControlError(
                f"{field}: there is no neuron set {name[:80]!r}", hint=f"known sets: {known}", param=field
            )
        if digits is None:
            return entry.info.digest
        if not _DIGEST.fullmatch(digits):
            message = f"{field}: {digits[:80]!r} is not a digest"
            raise ControlError(message, hint="sha256: and at least four hexadecimal digits", param=field)
        candidates = [digest for digest in (entry.info.digest, *entry.history) if digest.startswith(digits)]
        if not candidates:
            message = f"{field}: the neuron set {name!r} is {entry.info.digest[:19]} here, not {digits[:19]!r}"
            raise ControlError(message, hint="GET /v1/controls lists the versions that are kept", param=field)
        return candidates[0]
