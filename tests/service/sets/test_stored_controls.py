"""A real (tiny) model behind the store: what is published is served, and a swap in the middle touches nobody."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neurodial.control.artifacts.catalogue import SetCatalogue, StoredSets
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.controls import Control, parse_controls
from neurodial.control.errors import FingerprintError, NeuronSetError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Finished, Tokens
from neurodial.service.sets.catalogue import Catalogue
from neurodial.service.sets.store import SetStore
from tests.deploy.conftest import make_set

TEXT = "The tall boy likes the house."
PAST = parse_controls([{"set": "tense", "to": "past", "strength": 6.0}])


@pytest.fixture(scope="module")
def loaded(tiny_marian_path: Path) -> LoadedModel:
    """The tiny model."""
    return load_model(tiny_marian_path)


@pytest.fixture
def served(loaded: LoadedModel, tmp_path: Path) -> Iterator[tuple[LocalClient, Catalogue]]:
    """An engine that reads the store, and its catalogue."""
    store = SetStore(str(tmp_path / "store"))
    engine = Engine(RequestProcessor(loaded, StoredSets(store.read), model_id="m", default_max_tokens=24))
    client = LocalClient(engine)
    yield client, Catalogue({"m": client}, store, refresh_s=0)
    engine.close()


def content(found: NeuronSet, folder: Path) -> bytes:
    """The set's file."""
    found.save(folder / "set.safetensors")
    return (folder / "set.safetensors").read_bytes()


def opposite(found: NeuronSet) -> NeuronSet:
    """A set of the same name that moves the other way."""
    sites = tuple(replace(s, delta={label: -d for label, d in s.delta.items()}) for s in found.sites)
    return replace(found, sites=sites)


async def serve(client: LocalClient, controls: tuple[Control, ...], between: object = None) -> Finished:
    """One request; `between` is awaited after its first token."""
    swap = between
    async for events in client.generate((EngineRequest(f"r{id(controls)}", TEXT, controls, stream=True),)):
        if isinstance(events[0][1], Tokens) and swap is not None:
            await swap()  # type: ignore[operator]
            swap = None
        if isinstance(end := events[-1][1], Finished):
            return end
    raise AssertionError("the request has no end")


def test_a_swap_in_the_middle_of_a_request_does_not_touch_it(
    served: tuple[LocalClient, Catalogue], loaded: LoadedModel, tmp_path: Path
) -> None:
    client, catalogue = served
    one = make_set(loaded.fingerprint)
    two = opposite(one)
    direct = Engine(RequestProcessor(loaded, SetCatalogue({"tense": one}), default_max_tokens=24))
    alone = direct.submit(EngineRequest("solo", TEXT, PAST)).result(60)
    direct.close()

    async def run() -> tuple[Finished, Finished, Finished]:
        await catalogue.publish("m", "tense", content(one, tmp_path), by="anna")

        async def resolve() -> tuple[Control, ...]:
            return (await catalogue.names()).resolve("m", PAST)

        async def swap() -> None:
            await catalogue.publish("m", "tense", content(two, tmp_path), by="anna")

        during = await serve(client, await resolve(), swap)
        after = await serve(client, await resolve())
        await catalogue.rollback("m", "tense", by="anna")
        return during, after, await serve(client, await resolve())

    during, after, back = asyncio.run(run())
    digests = [finished.applied["controls"][0]["digest"] for finished in (during, after, back)]
    assert digests == [one.digest, two.digest, one.digest]
    assert during.text == back.text == alone.text != after.text


def test_the_engine_refuses_what_is_not_of_its_model_before_it_is_kept(
    served: tuple[LocalClient, Catalogue], loaded: LoadedModel, tmp_path: Path
) -> None:
    _, catalogue = served
    one = make_set(loaded.fingerprint)
    (site,) = one.sites
    too_wide = replace(one, sites=(replace(site, indices=site.indices + 10_000),), readouts=())
    foreign = make_set("sha256:" + "0" * 64)
    for found, kind in ((foreign, FingerprintError), (too_wide, NeuronSetError)):
        with pytest.raises(kind):
            asyncio.run(catalogue.publish("m", "tense", content(found, tmp_path), by="anna"))
    assert not (tmp_path / "store").exists()
