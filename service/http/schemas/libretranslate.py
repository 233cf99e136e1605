"""LibreTranslate's `/translate`, `/detect`, `/languages` and `/frontend/settings`."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from neurodial.service.http.schemas.base import Applied, Body, ControlledRequest


class LibreRequest(ControlledRequest):
    """`POST /translate`, as LibreTranslate's clients send it: JSON, a form or a query."""

    accepted_defaults: ClassVar[dict[str, tuple[Any, ...]]] = {"secret": ("",)}

    model: str | None = Field(
        default=None, min_length=1, description="absent: the first one that translates between these languages"
    )
    q: str | list[str] = Field(description="the text to translate, or several")
    source: str = Field(description="language code, see /languages; auto detects it, of each text")
    target: str = Field(description="language code, see /languages")
    format: Literal["text", "html"] = Field(default="text", description="of html the markup stays as it is")
    alternatives: int = Field(
        default=0, ge=0, description="so many other translations, from a beam search with one more beam"
    )
    api_key: str | None = Field(default=None, description="where there is no Authorization header")


class DetectRequest(Body):
    """`POST /detect`."""

    q: str = Field(description="a text")
    api_key: str | None = Field(default=None, description="where there is no Authorization header")


class DetectedLanguage(BaseModel):
    """What language a text is in."""

    confidence: float = Field(description="from 0 to 100")
    language: str


class LibreAnswer(BaseModel):
    """LibreTranslate's answer, with the proof of what was applied."""

    translatedText: str | list[str]  # noqa: N815 - LibreTranslate's names
    detectedLanguage: DetectedLanguage | list[DetectedLanguage] | None = Field(  # noqa: N815
        default=None, description="where source is auto"
    )
    alternatives: list[str] | list[list[str]] | None = Field(default=None, description="where they were asked for")
    applied: Applied | list[Applied]


class Language(BaseModel):
    """A language that a model reads or writes."""

    code: str
    name: str
    targets: list[str] = Field(description="languages that it is translated into; none where it is only written")


class NamedLanguage(BaseModel):
    """A language with its name."""

    code: str
    name: str


class LibreError(BaseModel):
    """LibreTranslate's error."""

    error: str


class FrontendSettings(BaseModel):
    """What LibreTranslate's page and some clients ask a server for."""

    apiKeys: bool  # noqa: N815
    charLimit: int  # noqa: N815
    filesTranslation: Literal[False] = False  # noqa: N815
    frontendTimeout: int = 500  # noqa: N815
    keyRequired: bool  # noqa: N815
    language: dict[Literal["source", "target"], NamedLanguage]
    suggestions: Literal[False] = False
    supportedFilesFormat: list[str] = []  # noqa: N815
