"""Names of neuron sets over time: every version of the table is immutable and says which change made it. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from neurodial.control.errors import BadInput, InternalError, NotFound

HISTORY = 10  # earlier digests that a name keeps

Action = Literal["publish", "delete", "rollback", "configure"]


@dataclass(frozen=True)
class Alias:
    """What one name stands for.

    Attributes:
        digest: of the neuron set; None once the name was deleted.
        history: earlier digests, the latest last, each once.
        configured: the digest that the configuration last gave the name; None if it never did, or does no more.
    """

    digest: str | None = None
    history: tuple[str, ...] = ()
    configured: str | None = None

    @property
    def references(self) -> frozenset[str]:
        """Digests that requests may ask for by this name: today's and the earlier ones; none once it is deleted."""
        return frozenset() if self.digest is None else frozenset((self.digest, *self.history))

    def at(self, digest: str | None) -> "Alias":
        """The same name with another digest; today's becomes its history.

        A name that was deleted begins anew: what it stood for before may have been dropped from the store by now.
        """
        if self.digest is None and digest is not None:
            return replace(self, digest=digest, history=())
        left = tuple(d for d in (*self.history, self.digest) if d is not None and d != digest)
        kept = tuple(d for number, d in enumerate(left) if d not in left[number + 1 :])
        return replace(self, digest=digest, history=kept[-HISTORY:])


@dataclass(frozen=True)
class Event:
    """One change of the table: an entry of the audit log.

    Attributes:
        at: when, in UTC, ISO 8601.
        by: the name of the key that asked for it, or `configuration`.
        action: what was done.
        model: whose table.
        name: the name that was changed.
        digest: what it stands for since; None once it is deleted.
        previous: what it stood for before.
    """

    at: str
    by: str
    action: Action
    model: str
    name: str
    digest: str | None
    previous: str | None


@dataclass(frozen=True)
class Version:
    """The whole table after one change.

    Attributes:
        number: counts from 1; 0 is the empty table before the first change.
        event: the change that made it.
        aliases: model → name → alias; deleted names stay, so that they can be brought back.
        schema: of the file.
    """

    number: int = 0
    event: Event | None = None
    aliases: Mapping[str, Mapping[str, Alias]] = field(default_factory=dict)
    schema: Literal[1] = 1

    def alias(self, model: str, name: str) -> Alias:
        """What a name stands for; an empty alias where it was never used."""
        return self.aliases.get(model, {}).get(name, Alias())

    @property
    def references(self) -> frozenset[str]:
        """Every digest that requests may ask for."""
        return frozenset(d for names in self.aliases.values() for alias in names.values() for d in alias.references)

    def changed(self, model: str, name: str, alias: Alias, *, action: Action, by: str) -> "Version":
        """The next version, in which one name has changed."""
        previous, now = self.alias(model, name).digest, datetime.now(UTC).isoformat(timespec="milliseconds")
        event = Event(now, by, action, model, name, alias.digest, previous)
        names = {**self.aliases.get(model, {}), name: alias}
        return Version(self.number + 1, event, {**self.aliases, model: names})

    def encode(self) -> bytes:
        """As JSON."""
        return _VERSION.dump_json(self)

    @classmethod
    def decode(cls, data: bytes, what: str) -> "Version":
        """Reads a version.

        Args:
            data: as `encode` wrote it.
            what: the file's name, for error messages.

        Raises:
            InternalError: if it is no version of the table.
        """
        try:
            return _VERSION.validate_json(data)
        except ValidationError:
            message = f"{what} in the store is not a version of the catalogue"
            raise InternalError(message, hint="restore the file, or name another store") from None


_VERSION = TypeAdapter(Version)


def published(alias: Alias, digest: str) -> Alias | None:
    """The alias after an upload; None where nothing changes."""
    return None if alias.digest == digest else alias.at(digest)


def deleted(alias: Alias, name: str) -> Alias:
    """The alias after a deletion.

    Raises:
        NotFound: if there is no such name.
    """
    if alias.digest is None:
        raise NotFound(f"there is no neuron set {name!r}", hint="GET /v1/controls lists them")
    return alias.at(None)


def rolled_back(alias: Alias, name: str, to: str | None) -> Alias:
    """The alias after a rollback: to the digest before, or to one of the kept ones. Twice is back where it was.

    Args:
        alias: as it is.
        name: of the alias, for error messages.
        to: the beginning of a digest of its history; the latest where absent.

    Raises:
        NotFound: if the name was never used.
        BadInput: if there is no such earlier digest.
    """
    if alias.digest is None and not alias.history:
        raise NotFound(f"there is no neuron set {name!r}", hint="GET /v1/controls lists them")
    if not alias.history:
        raise BadInput(f"the neuron set {name!r} has no earlier version", param="to" if to else "name")
    if to is None:
        return alias.at(alias.history[-1])
    found = [digest for digest in alias.history if digest.startswith(to)]
    if len(found) != 1:
        kept = ", ".join(digest[:19] for digest in reversed(alias.history))
        said = "several earlier versions that begin with" if found else "no earlier version"
        raise BadInput(f"the neuron set {name!r} has {said} {to[:80]!r}", hint=f"kept: {kept}", param="to")
    return alias.at(found[0])


def configured(alias: Alias, digest: str | None) -> Alias | None:
    """The alias after a start with a configuration; None where nothing changes.

    What was published since stays where the configuration says what it said last time; a configuration that says
    something else, or nothing any more, is a change of its own.

    Args:
        alias: as it is.
        digest: of the configuration's neuron set; None where the configuration does not name the set any more.
    """
    if digest == alias.configured:
        return None
    was_published_since = alias.digest != alias.configured
    after = alias if digest is None and was_published_since else alias.at(digest)
    return replace(after, configured=digest)
