"""The neuron sets that requests may name."""

from fastapi import FastAPI

from neurodial.service.engine.primitives import EngineInfo
from neurodial.service.schemas.catalogue import SetCard, SetList
from neurodial.service.services import Services


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/controls`."""

    @app.get("/v1/controls", response_model=SetList, tags=["controls"])
    async def list_controls() -> SetList:
        """The neuron sets that requests may name."""
        infos = [await client.info() for client in services.engines.values()]
        return SetList(data=[card for info in infos for card in _set_cards(info)])


def _set_cards(info: EngineInfo) -> list[SetCard]:
    return [
        SetCard(
            name=s.name,
            digest=s.digest,
            model=info.model.id,
            concept=s.concept,
            labels=list(s.labels),
            num_neurons=s.num_neurons,
            sites=list(s.sites),
            recommended=dict(s.recommended),
            evidence=dict(s.evidence),
        )
        for s in info.sets
    ]
