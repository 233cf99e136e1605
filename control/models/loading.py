"""Loading a checkpoint with its tokenizer, sites and fingerprint."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hub_logging

from neurodial.control.addresses import Site
from neurodial.control.errors import FingerprintError, ModelError, NeurodialError
from neurodial.control.models.architectures import Family
from neurodial.control.models.derived import read_derived
from neurodial.control.models.fingerprints import digest, fingerprint
from neurodial.control.models.lineage import Lineage
from neurodial.control.models.places import check_place
from neurodial.control.models.positions import positions_of
from neurodial.control.models.sites import ModelSites, sites_of
from neurodial.control.models.weights import adapter_tensors, adapters_of, check_weights_can_change

DTYPES: dict[str, torch.dtype | str] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "auto": "auto",
}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with everything that controls need to know about it.

    Attributes:
        model: the transformers model.
        tokenizer: its tokenizer.
        name: for people.
        fingerprint: `sha256:` and 64 digits.
        sites: its architecture's sites.
        lineage: of a checkpoint that Neurodial derived from another; None for an original.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str
    sites: ModelSites
    lineage: Lineage | None = None

    @property
    def family(self) -> Family:
        """encoder-decoder, decoder-only or encoder-only."""
        return self.sites.family

    def check_weights_can_change(self, what: str) -> None:
        """Refuses to edit weights that cannot be edited exactly: packed, sharded, offloaded, or with adapters beside.

        Args:
            what: what would be done, such as `pruning`.

        Raises:
            ModelError: with the reason.
        """
        if names := adapters_of(self.model):
            beside = f"the model has adapters ({', '.join(names)}) beside its weights"
            raise ModelError(f"{what} is not possible: {beside}", hint="merge them into the model first")
        check_weights_can_change(self.model, what)

    @property
    def pad_token_id(self) -> int | None:
        """The padding token's id; multimodal models keep it in their text part's config."""
        pad: int | None = getattr(self.model.config.get_text_config(), "pad_token_id", None)
        return pad

    @property
    def max_length(self) -> int:
        """Tokens that the model and its tokenizer take at once."""
        return int(min(positions_of(self.model), self.tokenizer.model_max_length))  # which may be 1e30

    @property
    def writes(self) -> bool:
        """Whether it generates text: it has a head, as truncated models and plain encoders have not."""
        return self.family != "encoder-only" and self.model.get_output_embeddings() is not None

    @classmethod
    def wrap(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "LoadedModel":
        """Takes a model that is loaded already; the fingerprint is that of its checkpoint, if it came from one."""
        inside: Any = getattr(model, "get_base_model", lambda: model)  # what peft has wrapped
        model = inside()
        source = Path(model.name_or_path).absolute() if model.name_or_path else None
        name = source.name if source else type(model).__name__
        lineage = Lineage.load(source) if source else None
        identity = fingerprint(model, source, lineage)
        if names := adapters_of(model):
            step = {"kind": "adapters", "adapters": list(names), "weights": digest(None, adapter_tensors(model))}
            lineage = Lineage.derive(lineage, fingerprint=identity, name=name, step=step, weights_changed=True)
            identity = digest(lineage, ())
        return cls(model.eval(), tokenizer, name, identity, sites_of(model), lineage)

    def check_origin(self, fingerprint: str, *, what: str, remedy: str, allow_changed_weights: bool = False) -> bool:
        """Refuses what (a set, a calibration, a ranking) was made neither for this model nor for an ancestor of it.

        Args:
            fingerprint: of the model that it was made for.
            what: how the message begins, such as `the neuron set 'tense' was made for en-es`.
            remedy: what to do instead.
            allow_changed_weights: take what belongs to an ancestor even though weights were changed since.

        Returns:
            Whether it is inherited: made for an ancestor of the model.

        Raises:
            FingerprintError: if it belongs to another model, or to an ancestor whose weights were changed since.
        """
        last = self.lineage.steps[-1] if self.lineage else {}
        has_new = bool(adapters_of(self.model)) and last.get("kind") != "adapters"
        if has_new and not allow_changed_weights:
            raise FingerprintError(f"{what}; adapters were added to it since", hint="load the model with its adapters")
        if self.fingerprint == fingerprint:
            return has_new
        made_for = f"{what} ({fingerprint[:19]}…)"
        if self.lineage is None or fingerprint not in self.lineage.ancestors:
            raise FingerprintError(f"{made_for}, not for this model ({self.fingerprint[:19]}…)", hint=remedy)
        if self.lineage.changed_since(fingerprint) and not allow_changed_weights:
            raise FingerprintError(
                f"{made_for}; this model descends from it, but its weights were changed",
                hint=f"{remedy}; or allow changed weights (allow_changed_weights)",
            )
        return True

    def original_width(self, site: Site) -> int:
        """Neurons of a site, those that were removed from the model included.

        Raises:
            AddressError: if the model has no such site.
        """
        kept = self.lineage.kept.get(site) if self.lineage else None
        return kept.original_width if kept else self.sites.info(site).width

    def physical(self, site: Site, neurons: Sequence[int]) -> tuple[int, ...]:
        """Places in this model's tensors of neurons given by their original numbers.

        Raises:
            AddressError: if one was removed from this model.
        """
        return self.lineage.physical(site, neurons) if self.lineage else tuple(int(n) for n in neurons)

    def original(self, site: Site, places: Sequence[int]) -> tuple[int, ...]:
        """Original numbers of neurons given by their places in this model's tensors."""
        return self.lineage.original(site, places) if self.lineage else tuple(int(p) for p in places)


def load_model(path: str | Path, *, device: str = "cpu", dtype: str = "float32", text: bool = True) -> LoadedModel:
    """Loads a checkpoint folder (or the name of one on a model hub) for inference.

    Args:
        path: a folder that `from_pretrained` reads, or a hub id.
        device: such as `cpu` or `cuda:0`.
        dtype: float32, bfloat16 or float16; auto is the checkpoint's own.
        text: False leaves the tokenizer out, for those who never encode text.

    Raises:
        ModelError: if it cannot be loaded, its architecture is not known, or there is no such device.
    """
    if dtype not in DTYPES:
        raise ModelError(f"{dtype!r} is not a dtype", hint=f"one of {', '.join(DTYPES)}")
    check_place(path)
    check_device(device)
    try:
        with quiet():
            model: Any = _read_model(path, DTYPES[dtype])
            tokenizer: Any = _read_tokenizer(path) if text else None
        if getattr(model, "hf_quantizer", None) is None:  # a quantised model is where its quantiser put it
            model = model.to(device)
    except NeurodialError:
        raise
    except Exception as error:  # transformers raises anything at all where a file is not as it should be
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{path}: cannot load the model ({line})",
            hint=f"a folder with config.json{', weights and tokenizer' if text else ' and weights'} is needed",
        ) from error
    return LoadedModel.wrap(model, tokenizer)


def check_device(device: str) -> None:
    """Refuses a device on which nothing can be computed here.

    Raises:
        ModelError: with PyTorch's reason.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).strip().splitlines()[0].rstrip(".")
        raise ModelError(f"device {device}: cannot be used here ({said})", hint="cpu works everywhere") from None


def _read_model(path: str | Path, dtype: torch.dtype | str) -> PreTrainedModel:
    base = adapted_from(path)
    if base is not None:
        adapted = _read_model(base, dtype)
        adapted.load_adapter(str(path))
        return adapted
    lineage = Lineage.load(Path(path)) if Path(path).is_dir() else None
    if lineage is not None and (lineage.kept or lineage.is_truncated):
        return read_derived(Path(path), lineage, dtype)
    config = AutoConfig.from_pretrained(path)
    model: PreTrainedModel = _auto_class(config).from_pretrained(path, dtype=dtype)
    return model


def adapted_from(path: str | Path) -> str | None:
    """The model that a folder of peft's adapters belongs to; None for any other folder."""
    file = Path(path) / "adapter_config.json"
    if not file.is_file() or (Path(path) / "config.json").is_file():
        return None
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{file}: names no base model", hint="set base_model_name_or_path to its folder")
    return str(base)


def _read_tokenizer(path: str | Path) -> Any:
    has_own = (Path(path) / "tokenizer_config.json").is_file()
    return AutoTokenizer.from_pretrained(path if has_own else adapted_from(path) or path)


def _auto_class(config: Any) -> Any:
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    architecture = (config.architectures or [""])[0]
    causal = architecture == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)  # Gemma3ForConditionalGeneration
    if causal or architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return AutoModelForCausalLM
    return AutoModelForMaskedLM if architecture.endswith("ForMaskedLM") else AutoModel


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps loading silent: progress bars over weights and the tokenizer's advice are noise to a user."""
    bars = hub_logging.is_progress_bar_enabled()
    hub_logging.disable_progress_bar()
    retries = logging.getLogger("huggingface_hub")  # what is left to say goes into our one line
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            yield
    finally:
        retries.setLevel(level)
        if bars:
            hub_logging.enable_progress_bar()
