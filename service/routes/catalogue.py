"""The served models."""

import asyncio

from fastapi import FastAPI

from neurodial.control.errors import NeurodialError
from neurodial.service.engine.client import EngineClient
from neurodial.service.engine.primitives import EngineInfo
from neurodial.service.schemas.catalogue import ModelCard, ModelList
from neurodial.service.services import Services


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/models`."""

    @app.get("/v1/models", response_model=ModelList)
    async def models() -> ModelList:
        """The served models, in OpenAI's shape; without those that cannot be reached or could not be loaded."""
        answers = await asyncio.gather(*map(_info, services.engines.values()))
        return ModelList(data=[_model_card(info) for info in answers if info is not None])

    @app.get("/v1/models/{model:path}", response_model=ModelCard)
    async def model(model: str) -> ModelCard:
        """One served model."""
        return _model_card(await services.engine(model).info())


async def _info(client: EngineClient) -> EngineInfo | None:
    try:
        return await client.info()
    except NeurodialError:  # /health says of which model, and asking for it alone says why
        return None


def _model_card(info: EngineInfo) -> ModelCard:
    model = info.model
    return ModelCard(
        id=model.id,
        created=model.created,
        architecture=model.architecture,
        fingerprint=model.fingerprint,
        dtype=model.dtype,
        device=model.device,
        max_positions=model.max_positions,
    )
