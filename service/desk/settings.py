"""Where the page's files are, and what a deployment says about it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

FOLDER = Path(__file__).parent / "page"


class DeskSettings(BaseModel):
    """The page at `/` and the API reference at `/docs`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="serve the page at / and the API reference at /docs")
    grafana: str | None = Field(
        default=None, pattern=r"^https?://", description="address of a Grafana dashboard that the page links to"
    )
