"""The neuron sets that requests may name: in a store that all replicas share, or fixed by the configuration."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from itertools import islice

from pydantic import TypeAdapter

from neurodial.control.errors import BadInput, ConfigError, NeurodialError
from neurodial.service.engine.client import EngineClient
from neurodial.service.engine.types import SetInfo
from neurodial.service.errors import Conflict, ModelNotFound
from neurodial.service.sets import aliases
from neurodial.service.sets.aliases import Action, Alias, Version
from neurodial.service.sets.names import Entry, Names
from neurodial.service.sets.store import SetStore

logger = logging.getLogger(__name__)

RESERVED = frozenset(("audit", "validate"))  # parts of routes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REFRESH_S = 1.0
_CONFIGURATION = "configuration"
_CARD = TypeAdapter(SetInfo)


class Catalogue:
    """Names of neuron sets, model by model; one of these per replica of the application.

    With a store every change is seen by every other catalogue of the store within `refresh_s` and a read. Without one
    the names are those that the engines were started with.

    Args:
        engines: one engine per model id; they say which neuron sets they accept.
        store: None for fixed sets.
        refresh_s: seconds for which what was read is trusted.
    """

    def __init__(
        self, engines: Mapping[str, EngineClient], store: SetStore | None = None, *, refresh_s: float = _REFRESH_S
    ) -> None:
        self._engines = engines
        self._store = store
        self._refresh_s = refresh_s
        self._version = Version()
        self._names: Names | None = None
        self._fixed: dict[str, dict[str, Entry]] = {}
        self._infos: dict[str, SetInfo] = {}  # by digest
        self._looked = float("-inf")
        self._looking = asyncio.Lock()

    async def names(self) -> Names:
        """What the names stand for now.

        Looks for changes at most once in `refresh_s`; whoever comes while another looks does not wait. A store that
        does not answer leaves what is known.

        Raises:
            NeurodialError: if nothing is known yet and nothing can be read.
        """
        if self._names is None or not (self._is_fresh() or self._looking.locked()):
            async with self._looking:
                await self._look()
        return self._names or Names({})

    async def publish(self, model: str, name: str | None, data: bytes, *, by: str) -> tuple[Entry, bool]:
        """Lets a name stand for a neuron set from now on, once the model's engine has accepted it.

        Args:
            model: whose name.
            name: the concept of the set where absent.
            data: the file.
            by: who wants it.

        Returns:
            The name, and whether it has stood for something else before.

        Raises:
            NeuronSetError: if the file is truncated or foreign; FingerprintError if it is of another model.
            BadInput: for a name that is not allowed.
            StoreFull, Conflict, NeurodialError: if it cannot be kept; nothing is kept then.
        """
        store = self._changeable()
        if name is not None:
            check_name(name)
        info = await self._engine(model).check_set(data)
        name = check_name(info.name) if name is None else name
        await asyncio.to_thread(store.put, info.digest, data, _CARD.dump_json(info))
        change = _changing(model, name, "publish", by, lambda alias: aliases.published(alias, info.digest))
        version, is_new = await self._change(store, change)
        return self._entry(version, model, name), is_new

    async def delete(self, model: str, name: str, *, by: str) -> None:
        """Takes a name away; a rollback brings it back as long as its content is kept.

        Raises:
            NotFound: if there is no such name.
            Conflict, NeurodialError: if the catalogue cannot be changed.
        """
        store = self._changeable()
        await self._change(store, _changing(model, name, "delete", by, lambda alias: aliases.deleted(alias, name)))

    async def rollback(self, model: str, name: str, *, by: str, to: str | None = None) -> Entry:
        """Gives a name its previous digest back, or another of its history.

        Args:
            model: whose name.
            name: of the set.
            by: who wants it.
            to: the beginning of a digest; the previous one where absent.

        Raises:
            NotFound: if the name was never used, or the content is not kept any more.
            BadInput: if there is no such earlier digest.
            Conflict, NeurodialError: if the catalogue cannot be changed.
        """
        store = self._changeable()

        def back(alias: Alias) -> Alias:
            after = aliases.rolled_back(alias, name, to)
            store.card(str(after.digest))  # a deleted name does not keep its content for ever
            return after

        version, _ = await self._change(store, _changing(model, name, "rollback", by, back))
        return self._entry(version, model, name)

    async def configure(self, sets: Mapping[str, Mapping[str, bytes]]) -> None:
        """Brings the configuration's neuron sets into the store; that several replicas do it at once does no harm.

        What was published under a name since stays, until the configuration itself names another file.

        Args:
            sets: model → name → the file; every model of the configuration.

        Raises:
            NeuronSetError: if an engine does not accept one.
            ConfigError: for a name that is not allowed.
        """
        store = self._changeable()
        for model, files in sets.items():
            for name, data in files.items():
                await self._configure(store, model, check_name(name, ConfigError), data)
            version = await asyncio.to_thread(store.newest, self._version)
            known = version.aliases.get(model, {})
            for name in sorted(name for name, alias in known.items() if alias.configured and name not in files):
                await self._change(store, _configuring(model, name, None))

    async def audit(self, limit: int, before: int | None = None) -> list[Version]:
        """The latest changes, newest first.

        Args:
            limit: most of them.
            before: only versions with a lower number.
        """
        store = self._changeable()
        return await asyncio.to_thread(lambda: list(islice(store.versions(before), limit)))

    async def _configure(self, store: SetStore, model: str, name: str, data: bytes) -> None:
        info = await self._engine(model).check_set(data)
        change = _configuring(model, name, info.digest)
        if change(await asyncio.to_thread(store.newest, self._version)) is None:
            return
        await asyncio.to_thread(store.put, info.digest, data, _CARD.dump_json(info))
        await self._change(store, change)

    async def _change(self, store: SetStore, make: Callable[[Version], Version | None]) -> tuple[Version, bool]:
        version, is_new = await asyncio.to_thread(store.change, make, self._version)
        if is_new and version.event is not None:
            e = version.event
            logger.info("version %d: %s of %s:%s by %s: %s", version.number, e.action, e.model, e.name, e.by, e.digest)
        await self._adopt(version)
        return version, is_new

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._looked < self._refresh_s

    async def _look(self) -> None:
        if self._is_fresh():
            return
        try:
            if self._store is None:
                await self._ask_engines()
            else:
                await self._adopt(await asyncio.to_thread(self._store.newest, self._version))
        except NeurodialError as error:
            if self._names is None:
                raise
            logger.warning("the catalogue may be out of date: %s", error.message)
        self._looked = time.monotonic()

    async def _ask_engines(self) -> None:
        """Asks those that have not answered yet; a model that cannot be loaded leaves the others' sets alone."""
        missing = [model for model in self._engines if model not in self._fixed]
        if not missing and self._names is not None:
            return
        answers = await asyncio.gather(*(self._engines[m].info() for m in missing), return_exceptions=True)
        for model, answer in zip(missing, answers, strict=True):
            if not isinstance(answer, BaseException):
                self._fixed[model] = {info.name: Entry(model, info.name, info) for info in answer.sets}
            elif not isinstance(answer, NeurodialError):
                raise answer
        self._names = Names(self._fixed)

    async def _adopt(self, version: Version) -> None:
        """Takes a version over, unless it or a newer one is known."""
        if self._names is None or version.number > self._version.number:
            names = await asyncio.to_thread(self._read, version)
            if self._names is None or version.number > self._version.number:
                self._version, self._names = version, names

    def _read(self, version: Version) -> Names:
        return Names(
            {
                model: {
                    name: self._entry(version, model, name)
                    for name, alias in version.aliases.get(model, {}).items()
                    if alias.digest is not None
                }
                for model in self._engines
            }
        )

    def _entry(self, version: Version, model: str, name: str) -> Entry:
        alias = version.alias(model, name)
        digest = str(alias.digest)
        if digest not in self._infos and self._store is not None:
            self._infos[digest] = _CARD.validate_json(self._store.card(digest))
        return Entry(model, name, self._infos[digest], alias.history)

    def _changeable(self) -> SetStore:
        if self._store is None:
            message = "this server has no store of neuron sets: those of its configuration are fixed"
            raise Conflict(message, hint="set store in the configuration, see docs/howto/publish.md")
        return self._store

    def _engine(self, model: str) -> EngineClient:
        if model not in self._engines:
            raise ModelNotFound.among(model, self._engines)
        return self._engines[model]


def check_name(name: str, kind: type[NeurodialError] = BadInput) -> str:
    """A name that can stand in an address and in `model:name`.

    Raises:
        BadInput: or `kind`, if it is none.
    """
    if not _NAME.fullmatch(name) or name in RESERVED:
        said = f"{name[:80]!r} cannot be the name of a neuron set"
        raise kind(said, hint="letters, digits and ._-, at most 64; not audit or validate", param="name")
    return name


def _changing(
    model: str, name: str, action: Action, by: str, change: Callable[[Alias], Alias | None]
) -> Callable[[Version], Version | None]:
    """A change of one name as a change of the table."""

    def make(version: Version) -> Version | None:
        alias = change(version.alias(model, name))
        return None if alias is None else version.changed(model, name, alias, action=action, by=by)

    return make


def _configuring(model: str, name: str, digest: str | None) -> Callable[[Version], Version | None]:
    return _changing(model, name, "configure", _CONFIGURATION, lambda alias: aliases.configured(alias, digest))
