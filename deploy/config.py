"""What `neurodial serve` reads: one YAML file, every setting documented, every mistake named by file and field."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from neurodial.control.errors import ConfigError
from neurodial.service.errors import dotted
from neurodial.service.limits import Limits
from neurodial.service.logs import LogSettings

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


class Autoscaling(_Settings):
    """A number of replicas that follows the load."""

    min: int = Field(default=1, ge=1, description="replicas that are always there")
    max: int = Field(ge=1, description="most replicas")
    target_ongoing_requests: float = Field(
        default=16.0, gt=0, description="HTTP requests per replica, running or waiting, that Ray Serve aims at"
    )
    upscale_delay_s: float = Field(default=10.0, ge=0, description="seconds of more load before replicas are added")
    downscale_delay_s: float = Field(
        default=300.0, ge=0, description="seconds of less load before replicas are taken away"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Autoscaling":
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, more than max, which is {self.max}")
        return self


Replicas = Annotated[int, Field(ge=1)] | Autoscaling


def _bounds(replicas: int | Autoscaling) -> tuple[int, int]:
    return (replicas.min, replicas.max) if isinstance(replicas, Autoscaling) else (replicas, replicas)


class IngressSettings(_Settings):
    """What stands in front of the models: HTTP, keys, the catalogue."""

    replicas: Replicas = Field(default=1, description="ingresses side by side, a number or autoscaling")
    max_requests: int = Field(
        default=1000, ge=1, description="HTTP requests that one ingress holds at once; more are answered with 429"
    )
    num_cpus: float = Field(default=0.0, ge=0, description="CPUs that Ray reserves for one ingress")


class ModelSettings(_Settings):
    """One served model."""

    id: str = Field(min_length=1, description="what requests call the model")
    path: str = Field(description="checkpoint folder, relative to this file, or the name of one on a model hub")
    sets: dict[str, ExistingFile] = Field(default={}, description="neuron sets that requests may name: name → file")
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
    replicas: Replicas = Field(
        default=1, description="engines that serve this model side by side, a number or autoscaling"
    )
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
    def min_replicas(self) -> int:
        """Engines that are always there."""
        return _bounds(self.replicas)[0]

    @property
    def max_replicas(self) -> int:
        """Most engines there can be."""
        return _bounds(self.replicas)[1]

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
    ingress: IngressSettings = Field(default=IngressSettings(), description="what stands in front of the models")
    stuck_after_s: float = Field(
        120.0, gt=0, description="seconds without a step after which a busy engine is unhealthy"
    )
    graceful_shutdown_s: float = Field(
        20.0, ge=0, description="seconds that running requests get when the server stops"
    )
    health_check_period_s: float = Field(
        default=5.0, gt=0, description="seconds between checks of a replica; three failures in a row replace it"
    )
    health_check_timeout_s: float = Field(
        default=30.0, gt=0, description="seconds without an answer after which such a check has failed"
    )
    logging: LogSettings = Field(default=LogSettings(), description="what is logged, how and where")
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


class LiveSettings(_Settings):
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
    try:
        return LiveSettings.model_validate(merged)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = dotted(problem["loc"])
        raise ConfigError(f"user_config: {field}: {problem['msg']}", param=field) from None


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
    model = {"id": DEMO_MODEL_ID, "path": str(DEMO_MODEL), "sets": sets, "calibration": calibration}
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
