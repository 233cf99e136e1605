"""Language codes: which of those that a model knows a request means, and what a text is written in."""

from collections.abc import Collection
from functools import lru_cache

import langcodes
from langcodes.tag_parser import LanguageTagError
from py3langid.langid import MODEL_FILE, LanguageIdentifier

_FARTHEST = 10  # nearer tags mean the same language to langcodes: a model of pt reads pt-BR


def closest(code: str, known: Collection[str]) -> str | None:
    """The one of some language codes that a code means: itself, or a tag of the same language.

    Args:
        code: such as `pt-BR`.
        known: such as `pt` or `por_Latn`; those that are no language tags only match themselves.
    """
    if code in known:
        return code
    try:
        langcodes.Language.get(code)
    except LanguageTagError:
        return None
    tags = {tag_of(own): own for own in known}
    match = langcodes.closest_supported_match(code, [tag for tag in tags if langcodes.tag_is_valid(tag)], _FARTHEST)
    return None if match is None else tags[match]


@lru_cache(1024)
def tag_of(own: str) -> str:
    """A tokenizer's code as a language tag: `en` of `en_XX`, `fr` of `fra_Latn`; as it is where it is none."""
    try:
        return str(langcodes.standardize_tag(own.removesuffix("_XX")))
    except LanguageTagError:
        return own


def detect(text: str, among: Collection[str] = ()) -> tuple[str, float] | None:
    """The language of a text, and how sure that is, from 0 to 1; None of a text without letters.

    Args:
        text: of any length; a few words are enough for most languages.
        among: languages that it can be in, one of which is the answer; where absent, all 97 that langid knows, by
            their ISO 639-1 codes.
    """
    if not any(character.isalpha() for character in text):
        return None
    ranked: list[tuple[str, float]] = _identifier().rank(text)
    if among:
        own = {tag_of(code).partition("-")[0]: code for code in among}
        ranked = [(own[language], share) for language, share in ranked if language in own]
    if not ranked:
        return None
    language, share = ranked[0]
    return language, share / sum(share for _, share in ranked)


@lru_cache(1)
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
