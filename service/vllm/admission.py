"""The front end: controls are compiled against the model's structure, without weights, once for each text."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from neurodial.control.addresses import Site, expand_layers
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.catalogue import SetCatalogue, SetSource
from neurodial.control.controls import Control, parse_controls
from neurodial.control.errors import ControlError, LimitError, ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.control.plans.program import Effect
from neurodial.service.vllm.settings import VllmSettings, declared_for
from neurodial.service.vllm.wire import written

_REMEMBERED = 512  # distinct texts of controls
_SHARDED = ("attn", "ffn", "cross")


def structure_of(path: str, *, with_tokenizer: bool = False) -> LoadedModel:
    """A checkpoint's model without its weights; the fingerprint is that of its files.

    Args:
        path: a folder, or the name of a model whose files a hub's client has fetched.
        with_tokenizer: for those who read text, too.

    Raises:
        ModelError: if its files are not on this machine.
    """
    folder = Path(path) if Path(path).is_dir() else _fetched(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.name_or_path = str(folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    if not any(folder.glob("model*.safetensors")):
        raise ModelError(f"{path}: has no safetensors files, by which the model is known", hint="convert its weights")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder) if with_tokenizer else None
    return LoadedModel.wrap(model, tokenizer)


class Admission:
    """Compiles controls for one model in vLLM.

    Args:
        loaded: the model, or its structure.
        settings: what controls may ask for.
        config: vLLM's.
        sets: where names of neuron sets are looked up; the settings' files where absent.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: VllmSettings,
        config: Any,
        *,
        sets: SetSource | None = None,
    ) -> None:
        self.loaded, self._settings, self._declared = loaded, settings, declared_for(settings, config)
        parallel = config.parallel_config
        self._ranks = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
        self._sites = declared_sites(settings, loaded)
        self._sets = SetCatalogue.from_files(settings.sets) if sets is None else sets
        self._calibration = Calibration.load(settings.calibration) if settings.calibration else None
        self.compiled = lru_cache(_REMEMBERED)(self._compiled)
        self._of_text = lru_cache(_REMEMBERED)(self._read)

    def read(self, raw: Any) -> CompiledControls | None:
        """Controls as a request of vLLM's has them: JSON, or what JSON would be read to.

        Raises:
            NeurodialError: naming the field.
        """
        return self._of_text(raw if isinstance(raw, str) else json.dumps(raw, default=_plain))

    def _read(self, text: str) -> CompiledControls | None:
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise ControlError(f"controls: not JSON ({error})", param="controls") from None
        controls = parse_controls(raw)
        return self.compiled(controls) if controls else None

    def _compiled(self, controls: tuple[Control, ...]) -> CompiledControls:
        compiled = compile_controls(
            self.loaded,
            controls,
            self._sets,
            allow_changed_weights=self._settings.allow_changed_weights,
            calibration=self._calibration,
            max_deviations=self._settings.max_deviations,
        )
        self.check(compiled)
        return compiled

    def check(self, compiled: CompiledControls) -> None:
        """Refuses controls that vLLM's model cannot apply here.

        Raises:
            ControlError, LimitError: naming the field.
        """
        most = self._settings.max_neurons
        if most is not None and compiled.num_neurons > most:
            message = f"controls touch {compiled.num_neurons:,} neurons; at most {most:,} are accepted"
            raise LimitError(message, hint="name fewer neurons, or set top", param="controls")
        for number, control in enumerate(compiled.controls):
            for effect in control.effects:
                self._check_effect(effect, f"controls[{number}]")
        self._declared.check(compiled)

    def _check_effect(self, effect: Effect, here: str) -> None:
        """Refuses what is not declared, and what processes that hold other parts of the model could not decide."""
        across, along = self._ranks
        gate, trigger = effect.condition.gate, effect.condition.trigger
        for part, field in ((effect, "neurons"), (gate, "where"), (trigger, "when")):
            if part is None:
                continue
            if part.site not in self._sites:
                declared = ", ".join(self._settings.sites)
                raise ControlError(f"{here}: {part.site} is not declared", param=here, hint=f"declared: {declared}")
            if along > 1 and field != "neurons":
                raise ControlError(f"{here}.{field}: not with pipeline parallelism", param=f"{here}.{field}")
            reads = field != "neurons" or effect.linear is not None
            if across > 1 and reads and part.site.kind in _SHARDED:
                message = f"{here}: with tensor parallelism no process has all of {part.site} to read"
                raise ControlError(message, param=here, hint="resid and embed can be read")


def payload(compiled: CompiledControls, key: str) -> dict[str, Any]:
    """What a worker is sent of a request's controls.

    Args:
        compiled: the controls.
        key: by which the report is asked for.
    """
    return {"digest": compiled.digest, "key": key, "effects": _wires(compiled)}


@lru_cache(_REMEMBERED)
def _wires(compiled: CompiledControls) -> list[Any]:
    return written(compiled)


def salt_of(compiled: CompiledControls, prompt_tokens: int) -> str:
    """What keeps cached keys and values of different controls apart.

    Where phases, steps or triggers decide, what a position holds depends on where the prompt ends: a prompt that is
    another one's with its output has other steps at the same tokens. A control that leaves prompts alone has blocks of
    its own, too: those of its output lie in the same chain.
    """
    is_scoped = any(program.is_scoped for program in compiled.programs.values())
    return f"{compiled.digest}/{prompt_tokens}" if is_scoped else compiled.digest


def report_of(compiled: CompiledControls, done: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The proof in an answer, as the native engine gives it: what was done, added up over a request's outputs.

    Args:
        compiled: the controls.
        done: of `PackedController.take`.
    """
    program = next(iter(compiled.programs.values()))

    def counts(effect: Effect) -> dict[str, int]:
        place = program.conditions.index(effect.condition)
        positions, seen = (sum(part["conditions"][place][n] for part in done) for n in (0, 1))
        return {"positions": positions, "seen": seen}

    report = compiled.summary(counts)
    triggers = list(dict.fromkeys(c.trigger for c in program.conditions if c.trigger is not None))
    for control, told in zip(compiled.controls, report["controls"], strict=True):
        for trigger in {e.condition.trigger for e in control.effects if e.condition.trigger}:
            parts = [part["triggers"][triggers.index(trigger)] for part in done]
            fired = sorted(step for part in parts for step in part["fired_at"])
            told["trigger"] = {"fired_at": fired, "active_steps": sum(part["active_steps"] for part in parts)}
    return report


def declared_sites(settings: VllmSettings, loaded: LoadedModel) -> frozenset[Site]:
    """The sites of a model that settings declare.

    Raises:
        AddressError: if the model has no such site.
    """
    counts = {stack: len(layers) for stack, layers in loaded.sites.layers.items()}
    named = [Site.parse(one) for text in settings.sites for one in expand_layers(text, counts)]
    for site in named:
        if site not in loaded.sites.sites:
            loaded.sites.info(site)
    return frozenset(named)


def _plain(value: Any) -> Any:
    """For `Control` objects in requests that are made in Python."""
    if isinstance(value, Control):
        return value.model_dump(mode="json", exclude_none=True)
    raise ControlError(f"controls: {type(value).__name__} is not a control", param="controls")


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(f"{name}: its files are not on this machine", hint="give a folder") from error
