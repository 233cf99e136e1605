"""What `neurodial serve` reads: one YAML file, every setting documented, every mistake named by file and field."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from neurodial.control.errors import ConfigError
from neurodial.deploy.configuration.settings import (
    AuthSettings,
    IngressSettings,
    ModelSettings,
    Settings,
    StoreSettings,
)
from neurodial.deploy.demo import (
    DEMO_CALIBRATION,
    DEMO_HALF,
    DEMO_HALF_ID,
    DEMO_LANGUAGES,
    DEMO_LM,
    DEMO_LM_ID,
    DEMO_MODEL,
    DEMO_MODEL_ID,
    DEMO_SETS,
)
from neurodial.service.access.limits import Limits
from neurodial.service.desk.settings import DeskSettings
from neurodial.service.errors import dotted
from neurodial.service.observability.logs import LogSettings

Read = TypeVar("Read", bound=Settings)


class Config(Settings):
    """A deployment."""

    models: tuple[ModelSettings, ...] = Field(min_length=1, description="served models; the first is listed first")
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 opens the server to the network")
    port: int = Field(default=8000, ge=1, le=65535, description="port to listen on")
    limits: Limits = Field(default=Limits(), description="what one request may ask for")
    ingress: IngressSettings = Field(default=IngressSettings(), description="what stands in front of the models")
    store: StoreSettings | None = Field(
        default=None, description="where published neuron sets are kept; without one a local server forgets them"
    )
    auth: AuthSettings = Field(default=AuthSettings(), description="keys; without any everybody may ask")
    desk: DeskSettings = Field(default=DeskSettings(), description="the page at / and the API reference at /docs")
    cors: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/ ]+)$")], ...] = Field(
        default=(), description="other origins whose pages may send requests, such as https://example.org; * is all"
    )
    logging: LogSettings = Field(default=LogSettings(), description="how the server's processes log")
    stuck_after_s: float = Field(
        default=120.0, gt=0, description="seconds without a step after which a busy engine is unhealthy"
    )
    graceful_shutdown_s: float = Field(
        default=20.0, ge=0, description="seconds that running requests get when the server stops"
    )
    health_check_period_s: float = Field(
        default=5.0, gt=0, description="seconds between checks of a replica; three failures in a row replace it"
    )
    health_check_timeout_s: float = Field(
        default=30.0, gt=0, description="seconds without an answer after which such a check has failed"
    )
    ray_address: str = Field(
        default="local", description="local starts Ray on this machine; else an address for ray.init"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        ids = [model.id for model in self.models]
        if len(set(ids)) < len(ids):
            raise ValueError("two models have the same id")
        if len({deployment_name(id_) for id_ in ids}) < len(ids):
            raise ValueError("two models' ids differ in a slash and a dash alone")
        for model in self.models:
            if model.max_waiting < self.limits.max_prompts:
                raise ValueError(
                    f"max_waiting of {model.id} is less than limits.max_prompts: no full request would fit"
                )
        return self


class LiveSettings(Settings):
    """What can change while a server runs: Ray Serve's `user_config` of the ingress."""

    limits: Limits
    sets: dict[str, dict[str, Path]]


def deployment_name(model_id: str) -> str:
    """The name of a model's engine deployment; Ray Serve allows no slashes in it."""
    return f"engine-{model_id.replace('/', '-')}"


def live_settings(config: Config) -> dict[str, Any]:
    """What can change while a server runs, as Ray Serve's `user_config` holds it."""
    sets = {model.id: {name: str(file) for name, file in model.sets.items()} for model in config.models}
    return {"limits": config.limits.model_dump(), "sets": sets}


def parse_live(raw: dict[str, Any], config: Config) -> LiveSettings:
    """Reads a `user_config`; what it leaves out is as the configuration says.

    Raises:
        ConfigError: naming the field.
    """
    known = live_settings(config)
    unknown = sorted(raw.keys() - known.keys()) + sorted((raw.get("sets") or {}).keys() - known["sets"].keys())
    if unknown:
        raise ConfigError(f"user_config: {unknown[0]}: there is no such setting or model", param=unknown[0])
    merged = {key: {**value, **(raw.get(key) or {})} for key, value in known.items()}
    return _validated(LiveSettings, merged, "user_config", None)


def load_config(path: str | Path, **overrides: Any) -> Config:
    """Reads a configuration file.

    Args:
        path: a YAML file; paths in it are relative to it.
        overrides: top-level settings from the command line; None leaves the file's.

    Raises:
        ConfigError: naming the file and the field.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", hint="neurodial serve --demo needs no configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: not a mapping of settings", hint="see docs/reference/configuration.md")
    return parse_config(raw | _given(overrides), name=str(path), base=path.resolve().parent)


def demo_config(**overrides: Any) -> Config:
    """The bundled English–Spanish model with its neuron sets, and the bundled English language model.

    Raises:
        ConfigError: if the installation lacks the demo.
    """
    for folder in (DEMO_MODEL, DEMO_HALF, DEMO_LM):
        if not (folder / "config.json").exists():
            raise ConfigError(f"the demo model is not at {folder}", hint="install the complete package, or train it")
    sets = {name: str(file) for name, file in DEMO_SETS.items()}
    calibration = str(DEMO_CALIBRATION)
    model: dict[str, Any] = {"id": DEMO_MODEL_ID, "path": str(DEMO_MODEL), "languages": DEMO_LANGUAGES}
    model |= {"sets": sets, "calibration": calibration}
    half = model | {"id": DEMO_HALF_ID, "path": str(DEMO_HALF), "allow_changed_weights": True}
    language_model = {"id": DEMO_LM_ID, "path": str(DEMO_LM)}
    return parse_config({"models": [model, half, language_model]} | _given(overrides), name="the demo", base=None)


def parse_config(raw: dict[str, Any], *, name: str, base: Path | None) -> Config:
    """Validates settings that have been read already.

    Args:
        raw: the settings.
        name: of the file, for messages.
        base: folder that relative paths start from.

    Raises:
        ConfigError: naming the file and the field.
    """
    config = _validated(Config, raw, name, base)
    for number, model in enumerate(config.models):
        for set_name, file in model.sets.items():
            if not file.is_file():
                field = f"models[{number}].sets.{set_name}"
                raise ConfigError(f"{name}: {field}: {file} does not exist", param=field)
    return config


def _given(overrides: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in overrides.items() if value is not None}


def _validated(kind: type[Read], raw: dict[str, Any], name: str, base: Path | None) -> Read:
    try:
        return kind.model_validate(raw, context={"base": base})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = dotted(problem["loc"])
        is_unknown = problem["type"] == "extra_forbidden"
        said = "there is no such setting" if is_unknown else problem["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name}: {field}: {said}" if field else f"{name}: {said}", param=field or None) from None
