"""`/v1/translations`."""

from typing import Literal

from pydantic import BaseModel, Field

from neurodial.service.http.schemas.base import Answer, Applied, Uncontrolled, Usage, WritingRequest


class TranslationRequest(WritingRequest):
    """`POST /v1/translations`."""

    text: str | list[str] = Field(description="the text to translate, or several")
    source: str | None = Field(
        default=None,
        description="language code of the text, see /languages; auto detects it; needed of a multilingual model",
    )
    target: str | None = Field(
        default=None, description="language code to translate into; needed of a multilingual model"
    )


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
