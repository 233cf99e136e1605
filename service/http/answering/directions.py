"""Which languages the served models translate between, and which of them a request means."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from neurodial.control.errors import BadInput, NeurodialError
from neurodial.service.engine.client import EngineClient
from neurodial.service.languages import closest, detect

_SURE = 0.6  # of the languages that there are; a text of one word often fits several
_SHOWN = 12


@dataclass(frozen=True)
class Translator:
    """What one model translates.

    Attributes:
        sources: codes of the languages that it reads.
        targets: of those that it writes.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def reads(self, code: str) -> bool:
        """Whether it reads a language."""
        return closest(code, self.sources) is not None

    def writes(self, code: str) -> bool:
        """Whether it writes a language."""
        return closest(code, self.targets) is not None

    def __str__(self) -> str:
        """Its languages, for people."""
        if self.sources == self.targets:
            return f"any of {some(self.sources)}"
        return f"{some(self.sources)} to {some(self.targets)}"


async def translators(
    engines: Mapping[str, EngineClient], pairs: Mapping[str, tuple[str, str]]
) -> dict[str, Translator]:
    """The models whose languages are known: by their tokenizers, or by the configuration.

    Args:
        engines: by model id.
        pairs: model id → (source, target) of the configuration.
    """
    found: dict[str, Translator] = {}
    for model, client in engines.items():
        pair = pairs.get(model)
        try:
            many = (await client.info()).model.languages
        except NeurodialError:  # it is not there at the moment
            many = ()
        if many:
            found[model] = Translator(many, many)
        elif pair is not None:
            found[model] = Translator((pair[0],), (pair[1],))
    return found


async def languages_for(
    known: Translator | None, model: str, source: str | None, target: str | None, texts: Iterable[str]
) -> tuple[str | None, str | None]:
    """The languages of a request to one model; None where it does not say: the engine knows the usual ones, if any.

    Args:
        known: what the model translates, if that is known.
        model: its id.
        source: of the request; `auto` detects it in all texts together.
        target: of the request.
        texts: of the request.

    Raises:
        BadInput: if the model does not know one, or `auto` cannot be told.
    """
    if known is None:
        if source or target:
            field = "source" if source else "target"
            hint = "leave it out, or name the model's languages in the configuration"
            raise BadInput(f"{field}: nothing is known of the languages of {model}", hint=hint, param=field)
        return None, None
    if source == "auto":
        source, _ = await detected("\n".join(texts), known.sources)
    for field, code, codes in (("source", source, known.sources), ("target", target, known.targets)):
        if code is not None and closest(code, codes) is None:
            raise BadInput(f"{field}: {model} does not know the language {code!r}", hint=some(codes), param=field)
    return source or (known.sources[0] if len(known.sources) == 1 else None), target


def model_between(known: Mapping[str, Translator], source: str, target: str) -> str:
    """The first model that translates between two languages.

    Raises:
        BadInput: if there is none.
    """
    into = [name for name, one in known.items() if one.writes(target)]
    for name in into:
        if known[name].reads(source):
            return name
    hint = "known: " + ("; ".join(dict.fromkeys(str(one) for one in known.values())) or "none")
    message = f"no model translates from {source!r} to {target!r}"
    raise BadInput(message, hint=hint, param="source" if into else "target")


async def detected(text: str, sources: tuple[str, ...]) -> tuple[str, float]:
    """The one of some languages that a text is in, and how sure that is; any where it has no letters.

    Raises:
        BadInput: if that cannot be told.
    """
    if len(sources) == 1:
        return sources[0], 1.0
    if not any(character.isalpha() for character in text):
        return sources[0], 0.0
    found = await asyncio.to_thread(detect, text, sources)  # which reads a model of 4 MB the first time
    if found is None or found[1] < _SURE:
        hint = f"name it: {some(sources)}"
        raise BadInput("source is auto, and what language the text is in cannot be told", hint=hint, param="source")
    return found


def some(codes: tuple[str, ...]) -> str:
    """The first of many codes, for people."""
    return ", ".join(codes[:_SHOWN]) + (", …" if len(codes) > _SHOWN else "")
