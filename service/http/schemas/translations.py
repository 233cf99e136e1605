"""`/v1/translations`, and LibreTranslate's `/translate` and `/languages`."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from neurodial.service.http.schemas.base import Answer, Applied, ControlledRequest, Uncontrolled, Usage, WritingRequest


class TranslationRequest(WritingRequest):
    """`POST /v1/translations`."""

    text: str | list[str] = Field(description="the text to translate, or several")


class Translation(BaseModel):
    """One translation, with the proof of what was applied to it."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    applied: Applied
    uncontrolled: Uncontrolled | None = None


class Translations(Answer):
    """Answer of `/v1/translations`."""

    object: Literal["translation"] = "translation"
    translations: list[Translation]
    usage: Usage


class LibreRequest(ControlledRequest):
    """`POST /translate`, as LibreTranslate's clients send it: JSON, or a form."""

    accepted_defaults: ClassVar[dict[str, tuple[Any, ...]]] = {
        "alternatives": (0,),
        "format": ("text",),
        "secret": ("",),
    }

    model: str | None = Field(
        default=None, min_length=1, description="absent: the first one that translates between these languages"
    )
    q: str | list[str] = Field(description="the text to translate, or several")
    source: str = Field(description="language code, see /languages; auto where the texts can be in one language only")
    target: str = Field(description="language code, see /languages")
    api_key: str | None = Field(default=None, description="where there is no Authorization header")


class LibreAnswer(BaseModel):
    """LibreTranslate's answer, with the proof of what was applied."""

    translatedText: str | list[str]  # noqa: N815 - LibreTranslate's name
    applied: Applied | list[Applied]


class Language(BaseModel):
    """A language that a model reads or writes, in LibreTranslate's shape."""

    code: str
    name: str
    targets: list[str] = Field(description="languages that it is translated into; none where it is only written")
