"""The control model: the same in Python, JSON and YAML."""

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from neurodial.control.errors import ControlError

Operation = Literal["clamp", "amplify", "shift", "prune", "map"]
OPERATIONS: tuple[str, ...] = get_args(Operation)
Phase = Literal["all", "prompt", "generation"]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NeuronGate(_Strict):
    """Fires at the positions where one neuron's value is above or below a threshold."""

    neuron: str = Field(description="address of one neuron, such as decoder.1.resid[5]")
    above: Finite | None = None
    below: Finite | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> "NeuronGate":
        if self.above is None and self.below is None:
            raise ValueError("give above, below or both")
        return self


class NeuronTrigger(_Strict):
    """Switches a control on for one request, from the step after one neuron's value is above a threshold."""

    neuron: str = Field(description="address of one decoder neuron, such as decoder.1.resid[5]")
    above: Finite
    until_below: Finite | None = Field(default=None, description="switches it off again; for good where absent")

    @model_validator(mode="after")
    def _no_flicker(self) -> "NeuronTrigger":
        if self.until_below is not None and self.until_below > self.above:
            raise ValueError("until_below must not lie over above")
        return self


class Control(_Strict):
    """Operation, neurons, scope and strength: what one control does.

    Either `set` names a neuron set, whose recommended settings fill whatever is left out, or `neurons` is an address
    and `op` and `value` say what happens there. Strength s means x' = x + s·(op(x) − x).
    """

    set: str | None = Field(default=None, description="a neuron set: tense or tense@sha256:ab12…", min_length=1)
    to: str | None = Field(default=None, description="the set's label to move to")
    top: int | None = Field(default=None, description="how many of the set's neurons, best first", ge=1)
    neurons: str | None = Field(
        default=None, description="an address: decoder.2.ffn[17,902], decoder.*.ffn[*]", max_length=20_000
    )
    op: Operation | None = None
    value: Finite | Literal["mean"] | None = Field(default=None, description="the operation's number; prune: 0, mean")
    strength: Finite | None = None
    where: Literal["concept", "all"] | NeuronGate | None = Field(default=None, description="gate: positions it acts on")
    when: NeuronTrigger | None = Field(default=None, description="trigger: from which generated token on it acts")
    phase: Phase = "all"
    steps: tuple[int, int] | None = Field(default=None, description="half-open window of generated tokens")

    @model_validator(mode="after")
    def _consistent(self) -> "Control":
        if (self.set is None) == (self.neurons is None):
            raise ValueError("give either set or neurons")
        if self.steps is not None and not 0 <= self.steps[0] < self.steps[1]:
            raise ValueError("steps must be [first, after the last] with 0 <= first < last")
        if self.neurons is not None:
            self._check_inline()
        return self

    def _check_inline(self) -> None:
        if self.op is None:
            raise ValueError("neurons need an op: clamp, amplify, shift or prune")
        if self.op == "map":
            raise ValueError("map is for neuron sets only: it needs a fitted map")
        if self.to is not None or self.top is not None:
            raise ValueError("to and top belong to a set")
        if self.where == "concept":
            raise ValueError('where "concept" needs a set with a read-out; use {"neuron": …, "above": …}')
        if self.op != "prune" and not isinstance(self.value, float):
            raise ValueError(f"{self.op} needs a number as value")


_CONTROLS = TypeAdapter(list[Control])


def parse_controls(raw: object, *, field: str = "controls") -> tuple[Control, ...]:
    """Reads a list of controls from parsed JSON or YAML, or from `Control` objects.

    Args:
        raw: the list; None is no controls.
        field: what the list is called in the request, for error messages.

    Raises:
        ControlError: naming the exact field, such as `controls[1].neurons`.
    """
    if raw is None:
        return ()
    try:
        return tuple(_CONTROLS.validate_python(raw))
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        same_field = [e for e in errors if e["loc"][:2] == errors[0]["loc"][:2]]  # one for each member of a union
        first = max(same_field, key=lambda e: len(field_path(e["loc"])))
        param = field + field_path(first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ControlError(f"{param}: {message}", param=param, hint="see docs/reference/controls.md") from None


def field_path(location: Sequence[int | str]) -> str:
    """Writes a pydantic location as it would be written in the request: `[1].where.neuron`.

    Parts that name a member of a union rather than a field are left out.
    """
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in location
        if isinstance(part, int) or (part.isidentifier() and part not in _UNION_MEMBERS)
    )


_UNION_MEMBERS = frozenset({"NeuronGate", "NeuronTrigger", "float", "int", "str"})
