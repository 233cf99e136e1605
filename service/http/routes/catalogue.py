"""The served models, and each model under each of its sets' labels."""

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest

from neurodial.control.controls import Control
from neurodial.control.errors import NeurodialError
from neurodial.service.engine.types import EngineInfo
from neurodial.service.http.schemas.catalogue import ModelCard, ModelList
from neurodial.service.http.selection import find, variants
from neurodial.service.http.services import Services


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/models`."""

    @app.get("/v1/models", tags=["models"])
    async def list_models(http: HttpRequest) -> ModelList:
        """The served models, and behind each its variants `base:set=label`; without those that do not answer."""
        found = await asyncio.gather(*(_cards(services, http, base) for base in services.engines))
        return ModelList(data=[card for cards in found for card in cards])

    @app.get("/v1/models/{model:path}", tags=["models"])
    async def retrieve_model(http: HttpRequest, model: str) -> ModelCard:
        """One served model, or one variant."""
        base, control = await find(services, http, model)
        info = await services.engine(base).info()
        return _card(info) if control is None else _card(info, model, control)


async def _cards(services: Services, http: HttpRequest, base: str) -> list[ModelCard]:
    try:
        info = await services.engine(base).info()
    except NeurodialError:  # not loaded, or not yet: asking for it alone says why
        return []
    return [_card(info), *(_card(info, name, control) for name, control in await variants(services, http, base))]


def _card(info: EngineInfo, name: str | None = None, control: Control | None = None) -> ModelCard:
    known: dict[str, Any] = {**vars(info.model)}
    if control is not None:
        known |= {
            "id": name,
            "sites": None,
            "parent": info.model.id,
            "controls": [{"set": control.set, "to": control.to}],
        }
    return ModelCard(**known)
