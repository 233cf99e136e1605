"""`/v1/translations`."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from neurodial.service.schemas.base import ModelRequest, Usage


class TranslationRequest(ModelRequest):
    """`POST /v1/translations`."""

    text: str | list[str] = Field(description="the text to translate, or several")

    @property
    def texts(self) -> list[str]:
        """The texts as a list."""
        return [self.text] if isinstance(self.text, str) else self.text


class Translation(BaseModel):
    """One translation, with the proof of what was applied to it."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    applied: dict[str, Any]


class Translations(BaseModel):
    """Answer of `/v1/translations`."""

    id: str
    object: Literal["translation"] = "translation"
    created: int
    model: str
    translations: list[Translation]
    usage: Usage
