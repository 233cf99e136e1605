"""What `neurodial serve` reads: one YAML file, every setting documented, every mistake named by file and field."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from neurodial.control.errors import ConfigError
from neurodial.service.auth import Keys
from neurodial.service.errors import dotted
from neurodial.service.limits import Limits
from neurodial.service.store import SetStore

DEMO_FOLDER = Path(__file__).parent / "demo"
DEMO_MODEL_ID = "en-es"
DEMO_MODEL = DEMO_FOLDER / "en-es"
DEMO_SETS = {"tense": DEMO_FOLDER / "sets" / "tense.safetensors"}
DEMO_CALIBRATION = DEMO_FOLDER / "calibration" / "en-es.safetensors"

ExistingFile = Annotated[Path, BeforeValidator(lambda value, info: _resolve(value, info))]


def _resolve(value: Any, info: Any) -> Any:
    """Makes a path relative to the configuration file absolute."""
    base: Path | None = (info.context or {}).get("base")
    return base / value if base is not None and isinstance(value, str | Path) else value


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(_Settings):
    """Where published neuron sets are kept, for all replicas."""

    uri: str = Field(min_length=1, description="a folder, relative to this file, or s3://… or gs://…")
    max_bytes: int = Field(
        default=1_073_741_824, ge=1024, description="bytes of neuron sets that are kept at most; more are refused"
    )

    @model_validator(mode="before")
    @classmethod
    def _local_folder(cls, raw: Any, info: Any) -> Any:
        raw = {"uri": raw} if isinstance(raw, str) else raw
        if isinstance(raw, dict) and isinstance(raw.get("uri"), str) and raw["uri"] and "://" not in raw["uri"]:
            return raw | {"uri": str(Path(_resolve(raw["uri"], info)).absolute())}
        return raw

    def open(self) -> SetStore:
        """The store.

        Raises:
            ConfigError: if the URI cannot be used.
        """
        return SetStore(self.uri, max_bytes=self.max_bytes)


class AuthSettings(_Settings):
    """Who may ask."""

    keys_file: ExistingFile | None = Field(default=None, description="YAML or JSON file of keys, see security.md")
    keys_env: str | None = Field(
        default=None, min_length=1, description="environment variable that holds what the file would"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "AuthSettings":
        if self.keys_file is not None and self.keys_env is not None:
            raise ValueError("give either keys_file or keys_env")
        return self

    def keys(self) -> Keys | None:
        """The keys; None where none are configured.

        Raises:
            ConfigError: naming the file or variable and the field, never a key.
        """
        if self.keys_file is not None:
            return Keys.from_file(self.keys_file)
        return Keys.from_environment(self.keys_env) if self.keys_env is not None else None


class ModelSettings(_Settings):
    """One served model."""

    id: str = Field(min_length=1, description="what requests call the model")
    path: str = Field(description="checkpoint folder, relative to this file, or the name of one on a model hub")
    sets: dict[str, ExistingFile] = Field(default={}, description="neuron sets that requests may name: name → file")
    languages: tuple[str, str] | None = Field(
        default=None, description="[source, target] of a model that translates; /translate chooses the model by them"
    )
    allow_changed_weights: bool = Field(
        default=False,
        description="accept sets made for the model that this one derives from although its weights were changed since",
    )
    calibration: ExistingFile | None = Field(
        default=None, description="means and deviations of the model's neurons, for pruning to the mean and for limits"
    )
    max_deviations: float | None = Field(
        default=None,
        ge=1,
        description="standard deviations that a control may move a neuron from its mean; needs a calibration",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="number format of the weights"
    )
    device: str = Field(default="cpu", description="cpu, cuda or cuda:N")
    replicas: int = Field(default=1, ge=1, description="engines that serve this model side by side")
    max_batch: int = Field(default=32, ge=1, description="rows decoded together; a beam counts as a row")
    max_prefill_tokens: int = Field(
        default=1024,
        ge=1,
        description="prompt tokens read between two steps of decoding; a longer prompt is read alone",
    )
    max_cache_tokens: int = Field(
        default=32_768, ge=16, description="rows times the longest row's tokens, prompt and output, held at once"
    )
    max_waiting: int = Field(
        default=512, ge=1, description="requests that may wait in one engine; more are answered with 429"
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of one engine; the machine's cores over all engines"
    )
    num_cpus: float = Field(default=1.0, ge=0, description="CPUs that Ray reserves for one engine")
    num_gpus: float | None = Field(
        default=None, ge=0, description="GPUs that Ray reserves for one engine; 1 on cuda, else 0"
    )

    @model_validator(mode="before")
    @classmethod
    def _local_path(cls, raw: Any, info: Any) -> Any:
        """A path that exists beside the configuration file is that folder; anything else may be a hub's name."""
        if isinstance(raw, dict) and isinstance(raw.get("path"), str | Path):
            local = _resolve(raw["path"], info)
            if Path(local).exists():
                return raw | {"path": str(local)}
            return raw | {"path": str(raw["path"])}
        return raw

    @model_validator(mode="after")
    def _can_be_a_hub_name(self) -> "ModelSettings":
        looks_local = self.path.startswith((".", "/", "~")) or self.path.count("/") != 1
        if looks_local and not Path(self.path).exists():
            raise ValueError(f"path {self.path} does not exist")
        return self

    @model_validator(mode="after")
    def _limits_have_a_measure(self) -> "ModelSettings":
        if self.max_deviations is not None and self.calibration is None:
            raise ValueError("max_deviations needs a calibration: neurodial calibrate writes one")
        return self

    @property
    def gpus(self) -> float:
        """GPUs that Ray reserves for one engine."""
        return self.num_gpus if self.num_gpus is not None else float(self.device.startswith("cuda"))


class Config(_Settings):
    """A deployment."""

    models: tuple[ModelSettings, ...] = Field(min_length=1, description="served models; the first is listed first")
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 opens the server to the network")
    port: int = Field(default=8000, ge=1, le=65535, description="port to listen on")
    limits: Limits = Field(default=Limits(), description="what one request may ask for")
    store: StoreSettings | None = Field(
        default=None, description="where published neuron sets are kept; without one a local server forgets them"
    )
    auth: AuthSettings = Field(default=AuthSettings(), description="keys; without any everybody may ask")
    stuck_after_s: float = Field(
        120.0, gt=0, description="seconds without a step after which a busy engine is unhealthy"
    )
    graceful_shutdown_s: float = Field(
        20.0, ge=0, description="seconds that running requests get when the server stops"
    )
    ray_address: str = Field(
        default="local", description="local starts Ray on this machine; else an address for ray.init"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        ids = [model.id for model in self.models]
        if len(set(ids)) < len(ids):
            raise ValueError("two models have the same id")
        for model in self.models:
            if model.max_waiting < self.limits.max_prompts:
                raise ValueError(
                    f"max_waiting of {model.id} is less than limits.max_prompts: no full request would fit"
                )
        return self


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
        raise ConfigError(f"{path}: not a mapping of settings", hint="see docs/configuration.md")
    return parse_config(raw | _given(overrides), name=str(path), base=path.resolve().parent)


def demo_config(**overrides: Any) -> Config:
    """The bundled English–Spanish model with its tense controls.

    Raises:
        ConfigError: if the installation lacks the demo.
    """
    if not (DEMO_MODEL / "config.json").exists():
        raise ConfigError(f"the demo model is not at {DEMO_MODEL}", hint="install the complete package, or train it")
    sets = {name: str(file) for name, file in DEMO_SETS.items()}
    calibration = str(DEMO_CALIBRATION)
    model: dict[str, Any] = {"id": DEMO_MODEL_ID, "path": str(DEMO_MODEL), "sets": sets, "calibration": calibration}
    model["languages"] = ["en", "es"]
    return parse_config({"models": [model]} | _given(overrides), name="the demo", base=None)


def parse_config(raw: dict[str, Any], *, name: str, base: Path | None) -> Config:
    """Validates settings that have been read already.

    Args:
        raw: the settings.
        name: of the file, for messages.
        base: folder that relative paths start from.

    Raises:
        ConfigError: naming the file and the field.
    """
    try:
        config = Config.model_validate(raw, context={"base": base})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = dotted(problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            said = "there is no such setting"
        raise ConfigError(f"{name}: {field}: {said}" if field else f"{name}: {said}", param=field or None) from None
    for number, model in enumerate(config.models):
        for set_name, file in model.sets.items():
            if not file.is_file():
                field = f"models[{number}].sets.{set_name}"
                raise ConfigError(f"{name}: {field}: {file} does not exist", param=field)
    return config


def _given(overrides: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in overrides.items() if value is not None}
