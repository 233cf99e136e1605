"""Which engine serves a request, and under which controls."""

from collections.abc import Sequence

from fastapi import Request as HttpRequest

from neurodial.control.controls import Control
from neurodial.service.engine.types import SetInfo
from neurodial.service.errors import ModelNotFound
from neurodial.service.http.answering.serving import Selected
from neurodial.service.http.middlewares.authentication import principal
from neurodial.service.http.services import Services
from neurodial.service.sets.names import Entry


async def select(services: Services, http: HttpRequest, model: str, controls: tuple[Control, ...]) -> Selected:
    """Admits what a request asks for.

    Args:
        services: of the application.
        http: the request, which knows who sent it.
        model: as the request names it: an id, `base:set=label` or `base:set`.
        controls: of the request; that of the model's name comes behind them, so that errors count the request's own.

    Raises:
        ModelNotFound: naming the models there are.
        LimitError: for too many controls.
        ControlError: for a neuron set that there is not.
        Forbidden: for one that the request's key may not use, or addresses where it may not use them.
    """
    services.limits.check_controls(controls)
    base, variant = await find(services, http, model)
    names = await services.sets.names()
    asked = controls if variant is None else (*controls, variant)
    client = services.engine(base)
    return Selected(http, services.limits, client, base, names.resolve(base, asked, principal(http)))


async def select_neurons(
    services: Services, http: HttpRequest, model: str, addresses: Sequence[str], named: str | None
) -> tuple[str, ...]:
    """The neurons that a request wants to read: its addresses, and last a neuron set by its whole digest.

    Raises:
        ControlError: for a neuron set that there is not.
        Forbidden: for one that the request's key may not use, or addresses where it may not use them.
    """
    who = principal(http)
    if addresses:
        who.require_inline("neurons")
    if named is None:
        return tuple(addresses)
    return (*addresses, (await services.sets.names()).pin(model, named, who, field="set"))


async def find(services: Services, http: HttpRequest, model: str) -> tuple[str, Control | None]:
    """The served model that a name means, and the control in the name.

    Raises:
        ModelNotFound: naming the models, or the sets and labels, that there are.
    """
    if model in services.engines:
        return model, None
    bases = [base for base in services.engines if model.startswith(f"{base}:")]
    if not bases:
        services.engine(model)  # raises: there is no such model
    base = max(bases, key=len)
    reference, _, label = model[len(base) + 1 :].partition("=")
    for found in await sets_of(services, http, base):
        if found.name == reference.partition("@")[0] and (label in found.info.labels or not label):
            return base, Control(set=reference, to=label or usual_label(found.info))
    raise ModelNotFound.among(model, [base, *(name for name, _ in await variants(services, http, base))])


async def variants(services: Services, http: HttpRequest, base: str) -> list[tuple[str, Control]]:
    """The names `base:set=label` of a model, each with the control that it stands for."""
    return [
        (f"{base}:{found.name}={label}", Control(set=found.name, to=label))
        for found in await sets_of(services, http, base)
        for label in found.info.labels
    ]


async def sets_of(services: Services, http: HttpRequest, model: str) -> list[Entry]:
    """The neuron sets that this request may name, if it is to this model."""
    return (await services.sets.names()).entries(model, principal(http))


def usual_label(found: SetInfo) -> str:
    """The label that a set's name alone stands for: the only one with a recommended strength, else the last."""
    strengths = list(found.recommended.get("strength") or ())
    return strengths[0] if len(strengths) == 1 else found.labels[-1]
