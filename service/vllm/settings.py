"""What the plugin is told: `--additional-config '{"neurodial": {…}}'` of vLLM, which enters its compile cache's key."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neurodial.control.errors import ConfigError
from neurodial.service.errors import dotted

if TYPE_CHECKING:
    from neurodial.control.runtime.declared import Declared

KEY = "neurodial"
_PADDING = 1024  # tokens by which a pass may be padded for a captured graph
ALL_SITES = ("decoder.embed", "decoder.*.attn", "decoder.*.ffn", "decoder.*.resid")


class TableSettings(BaseModel):
    """What controls may touch and how much they may ask for; tables of that size lie in the model's memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sites: tuple[str, ...] = Field(default=ALL_SITES, description="sites that controls may touch or read")
    neurons: int = Field(default=256, ge=1, description="neurons that one list of controls may touch at a site")
    reads: int = Field(default=1024, ge=1, description="neurons that a map or a concept's read-out may read")
    updates: int = Field(default=2, ge=1, description="updates under different conditions at one site")
    conditions: int = Field(default=8, ge=1, description="different conditions in one list of controls")
    gates: bool = Field(default=True, description="whether controls may have gates")
    readouts: int = Field(default=4, ge=0, description="different read-outs of concepts at one site at once")
    classes: int = Field(default=8, ge=2, description="classes that a concept's read-out may tell apart")
    maps: int = Field(default=4, ge=0, description="different maps at one site at once")
    triggers: int = Field(default=2, ge=0, description="different triggers in one list of controls")
    slots: int | None = Field(
        default=None, ge=1, description="different lists of controls that run at once; max_num_seqs where absent"
    )
    static: bool | None = Field(
        default=None, description="apply all tables in every pass, as captured graphs must; false on CPUs where absent"
    )


class VllmSettings(TableSettings):
    """What the plugin is told in plain vLLM, where nothing else configures Neurodial."""

    sets: dict[str, Path] = Field(default={}, description="neuron sets that requests may name: name → file")
    allow_changed_weights: bool = Field(default=False, description="accept sets of an ancestor of the model")
    calibration: Path | None = Field(default=None, description="for pruning to the mean and for limits")
    max_deviations: float | None = Field(default=None, ge=1, description="how far a control may move a neuron")
    max_neurons: int | None = Field(default=None, ge=1, description="neurons that one request's controls may touch")


def declared_for(settings: TableSettings, config: Any) -> "Declared":
    """What the tables of an engine must hold.

    Args:
        settings: what controls may ask for.
        config: vLLM's.
    """
    from neurodial.control.runtime.declared import Declared  # brings torch, which those who only configure do without

    scheduling = config.scheduler_config
    requests = scheduling.max_num_seqs
    return Declared(
        slots=1 + (requests if settings.slots is None else settings.slots),  # slot 0 and row 0 are nobody's
        rows=1 + requests,
        tokens=scheduling.max_num_batched_tokens + _PADDING,
        steps=config.model_config.max_model_len,
        **{name: getattr(settings, name) for name in TableSettings.model_fields.keys() - {"sites", "slots", "static"}},
    )


def read_settings(raw: Any) -> VllmSettings:
    """Reads what vLLM's configuration has under `neurodial`.

    Raises:
        ConfigError: naming the field.
    """
    try:
        return VllmSettings.model_validate(raw or {})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(part for part in (KEY, dotted(problem["loc"])) if part)
        said = "there is no such setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        raise ConfigError(f"additional_config: {field}: {said}", param=field) from None
