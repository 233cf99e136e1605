"""The served models."""

from fastapi import FastAPI

from neurodial.service.engine.primitives import EngineInfo
from neurodial.service.schemas.catalogue import ModelCard, ModelList
from neurodial.service.services import Services


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/models`."""

    @app.get("/v1/models", response_model=ModelList)
    async def models() -> ModelList:
        """The served models, in OpenAI's shape."""
        infos = [await client.info() for client in services.engines.values()]
        return ModelList(data=[_model_card(info) for info in infos])

    @app.get("/v1/models/{model:path}", response_model=ModelCard)
    async def model(model: str) -> ModelCard:
        """One served model."""
        return _model_card(await services.engine(model).info())


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
