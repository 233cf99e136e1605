"""Which engine serves a request, and under which controls."""

from dataclasses import dataclass

from fastapi import Request as HttpRequest

from neurodial.control.controls import Control
from neurodial.service.engine.client import EngineClient
from neurodial.service.services import Services


@dataclass(frozen=True)
class Selected:
    """What a request's `model` and `controls` come to.

    Attributes:
        client: the engine.
        model: the served model's id.
        controls: as the engine is given them.
    """

    client: EngineClient
    model: str
    controls: tuple[Control, ...]


async def select(services: Services, http: HttpRequest, model: str, controls: tuple[Control, ...]) -> Selected:
    """Admits what a request asks for.

    Args:
        services: of the application.
        http: the request, which knows who sent it.
        model: as the request names it.
        controls: of the request.

    Raises:
        ModelNotFound: naming the models there are.
        LimitError: for too many controls.
    """
    services.limits.check_controls(controls)
    return Selected(services.engine(model), model, controls)
