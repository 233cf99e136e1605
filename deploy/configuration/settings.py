"""The parts of a configuration: what each model, the ingress, the store and the keys are told."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from neurodial.service.access.auth import Keys
from neurodial.service.sets.store import SetStore
from neurodial.service.vllm.settings import TableSettings

ExistingFile = Annotated[Path, BeforeValidator(lambda value, info: _resolve(value, info))]


def _resolve(value: Any, info: Any) -> Any:
    """Makes a path relative to the configuration file absolute."""
    base: Path | None = (info.context or {}).get("base")
    return base / value if base is not None and isinstance(value, str | Path) else value


class Settings(BaseModel):
    """Settings that are read once and never changed; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(Settings):
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


class IngressSettings(Settings):
    """What stands in front of the models: HTTP, keys, the catalogue."""

    replicas: Replicas = Field(default=1, description="ingresses side by side, a number or autoscaling")
    max_requests: int = Field(
        default=1000, ge=1, description="HTTP requests that one ingress holds at once; more are answered with 429"
    )
    num_cpus: float = Field(default=0.0, ge=0, description="CPUs that Ray reserves for one ingress")

    @property
    def max_replicas(self) -> int:
        """Most ingresses there can be."""
        return _bounds(self.replicas)[1]


class StoreSettings(Settings):
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


class AuthSettings(Settings):
    """Who may ask."""

    keys_file: ExistingFile | None = Field(default=None, description="file of keys, see docs/howto/secure.md")
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


_OF_VLLM = {"engine_options", "tables"}
_OF_NATIVE = {"compile", "max_prefill_tokens", "max_cache_tokens", "threads"}


class ModelSettings(Settings):
    """One served model."""

    id: str = Field(min_length=1, description="what requests call the model")
    path: str = Field(description="checkpoint folder, relative to this file, or the name of one on a model hub")
    languages: tuple[str, str] | None = Field(
        default=None, description="[source, target] of a model that translates; /translate chooses the model by them"
    )
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
    engine: Literal["native", "vllm"] = Field(
        default="native", description="vllm serves decoder-only models with vLLM (extra `vllm`), see docs/howto/vllm.md"
    )
    engine_options: dict[str, Any] = Field(
        default={}, description="of vLLM's engine, such as tensor_parallel_size, max_model_len, quantization"
    )
    tables: TableSettings = Field(
        default=TableSettings(), description="with vllm: what controls may touch and how much they may ask for"
    )
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
        default=None, ge=1, description="CPU threads of one engine; the machine's cores over all engines"
    )
    compile: bool = Field(
        default=False,
        description="compile the decoding step at the start, for a minute or so: a third faster on a CPU; needs a C++ "
        "compiler, without which the log says so and steps stay as they are",
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

    @model_validator(mode="after")
    def _of_one_engine(self) -> "ModelSettings":
        others = _OF_VLLM if self.engine == "native" else _OF_NATIVE
        for name in others & self.model_fields_set:
            raise ValueError(f"{name} is not for engine: {self.engine}")
        return self

    @property
    def ranks(self) -> int:
        """Processes, each on a GPU of its own, over which one engine spreads the model."""
        options = self.engine_options
        return int(options.get("tensor_parallel_size", 1)) * int(options.get("pipeline_parallel_size", 1))

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
