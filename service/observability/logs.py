"""Logs as lines of text or of JSON. They hold ids, digests and counts: no prompts, no outputs, no keys."""

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

ROOT = "neurodial"


def _from_base(value: Any, info: ValidationInfo) -> Any:
    """Makes a path relative to the configuration file absolute."""
    base: Path | None = (info.context or {}).get("base")
    return base / value if base is not None and isinstance(value, str | Path) else value


class LogSettings(BaseModel):
    """How a server logs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["text", "json"] = Field(default="text", description="lines of text, or one JSON object a line")
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="warning", description="least severity that is written; info has one line for each finished request"
    )
    file: Annotated[Path, BeforeValidator(_from_base)] | None = Field(
        default=None,
        description="file that every process of one machine appends to; standard error where absent, which Ray keeps",
    )


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what the record adds."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        shown: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        shown |= {name: value for name, value in _fields(record).items() if name not in shown}
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return json.dumps(shown, default=str)


class TextLines(logging.Formatter):
    """The same for eyes: `name=value` after the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines where there is an exception."""
        added = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {_one_line(record.getMessage())}{added}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up(settings: LogSettings) -> None:
    """Makes everything of ours in this process log so; what was set up before is replaced."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if settings.file is not None:
        settings.file.parent.mkdir(parents=True, exist_ok=True)
        handler = WatchedFileHandler(settings.file, encoding="utf-8", delay=True)  # may be rotated under it
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    root = logging.getLogger(ROOT)
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    root.propagate = False


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if text and not set(text) & set(' "=\\') and text.isprintable() else json.dumps(text)


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")
