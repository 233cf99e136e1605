"""The model behind an engine: rows join and leave between steps, each under its own controls."""

import secrets
import threading
import time
from collections.abc import Mapping
from collections.abc import Sequence as Items
from functools import lru_cache
from typing import Any

import torch

from neurodial.control.calibration import Calibration
from neurodial.control.catalogue import SetCatalogue
from neurodial.control.compiling import CompiledControls, compile_controls
from neurodial.control.controls import Control
from neurodial.control.errors import BadInput, LimitError
from neurodial.control.loading import LoadedModel
from neurodial.control.neuron_set import NeuronSet
from neurodial.service.engine.caches import RowCache
from neurodial.service.engine.choosing import ModelDefaults
from neurodial.service.engine.primitives import NOTHING_APPLIED, EngineInfo, ModelInfo, Prepared, Request, SetInfo
from neurodial.service.engine.rows import Rows
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import Outcome

_COMPILED_CACHE = 256  # distinct lists of controls whose compilation is remembered
_POSITIONS = ("max_position_embeddings", "n_positions", "seq_length")
_UNLIMITED_POSITIONS = 2048  # of models that have no table of positions


class ModelRunner:
    """Runs one loaded model. The runner owns the model: nothing else may run it.

    Args:
        loaded: the model.
        sets: the neuron sets that requests may name.
        model_id: what requests call the model; its own name where absent.
        default_max_tokens: most tokens generated where a request does not say.
        max_rows: rows decoded together, at most.
        cache: where keys and values are kept; the preallocated cache where absent.
        allow_changed_weights: take sets of an ancestor of the model although weights were changed since.
        calibration: of the model; pruning an address to the mean and limits need it.
        max_deviations: standard deviations that a control may move a neuron from its mean.

    Raises:
        FingerprintError: if a set or the calibration was made for another model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sets: SetCatalogue,
        *,
        model_id: str | None = None,
        default_max_tokens: int = 256,
        max_rows: int = 32,
        cache: RowCache | None = None,
        allow_changed_weights: bool = False,
        calibration: Calibration | None = None,
        max_deviations: float | None = None,
    ) -> None:
        for name in sets.names():
            sets.get(name).check_model(loaded, allow_changed_weights=allow_changed_weights)
        if calibration is not None:
            calibration.check_model(loaded, allow_changed_weights=allow_changed_weights)
        self._loaded = loaded
        self._tokenizer: Any = loaded.tokenizer
        self._tokenizer_lock = threading.Lock()  # MarianTokenizer switches its state and is not safe for two threads
        self._defaults = ModelDefaults.of(loaded.model)
        self._max_positions = _max_positions(loaded)
        self._default_max_tokens = default_max_tokens
        self._compile = lru_cache(_COMPILED_CACHE)(
            lambda controls: compile_controls(
                loaded,
                controls,
                sets,
                allow_changed_weights=allow_changed_weights,
                calibration=calibration,
                max_deviations=max_deviations,
            )
        )
        self._rows = Rows(loaded, self._defaults, max_rows, cache, self.decode)
        cards = tuple(_set_info(name, sets.get(name)) for name in sets.names())
        self.info = EngineInfo(_model_info(loaded, model_id or loaded.name, self._max_positions), cards)

    def prepare(self, request: Request) -> Prepared:
        """Tokenises a prompt and compiles its controls; see `Runner.prepare`.

        Raises:
            BadInput: if the model cannot do what is asked.
            LimitError: if the prompt or `max_tokens` do not fit the model's positions.
            ControlError, AddressError, FingerprintError: naming the field.
        """
        if request.task == "generate" and self._loaded.family == "encoder-only":
            raise BadInput("this model reads text and does not write any", param="model", hint="choose another model")
        with self._tokenizer_lock:
            ids = tuple(self._tokenizer(request.prompt, verbose=False)["input_ids"])
        if not ids:
            raise BadInput(f"{request.field} has no tokens", param=request.field)
        max_tokens = self._max_tokens(request, len(ids))
        size = int(self._loaded.model.config.get_text_config().vocab_size)
        for token, _ in request.logit_bias:
            if not 0 <= token < size:
                raise BadInput(f"logit_bias: there is no token {token}, the last is {size - 1}", param="logit_bias")
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return Prepared(ids, max_tokens, self._plan(request.controls), seed, self._defaults.end_ids)

    def decode(self, ids: Items[int]) -> str:
        """The text of generated tokens."""
        with self._tokenizer_lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def makes_first_tokens(self) -> bool:
        """See `Runner.makes_first_tokens`."""
        return self._rows.makes_first_tokens

    @torch.inference_mode()
    def advance(self, sequences: Items[Sequence]) -> list[Outcome]:
        """See `Runner.advance`."""
        return self._rows.advance(sequences)

    @torch.inference_mode()
    def commit(self) -> None:
        """See `Runner.commit`."""
        self._rows.commit()

    @torch.inference_mode()
    def join(self, sequences: Items[Sequence]) -> list[Outcome]:
        """See `Runner.join`."""
        written = [s for s in sequences if s.request.task == "generate"]
        read = [s for s in sequences if s.request.task == "encode"]
        encoded = self._rows.encode(read) if read else []
        return encoded + (self._rows.join(written) if written else [])

    def applied(self, sequence: Sequence) -> Mapping[str, Any]:
        """See `Runner.applied`."""
        return self._rows.report(sequence) or NOTHING_APPLIED

    @torch.inference_mode()
    def release(self, sequences: Items[Sequence]) -> None:
        """See `Runner.release`."""
        self._rows.release(sequences)

    def _max_tokens(self, request: Request, num_prompt: int) -> int:
        """Most tokens to generate.

        Raises:
            LimitError: if the prompt or what is asked for do not fit.
        """
        limit = self._max_positions
        room = limit - 1 if self._loaded.family == "encoder-decoder" else limit - num_prompt
        if num_prompt > limit or (room < 1 and request.task == "generate"):
            message = f"{request.field} has {num_prompt} tokens; the model reads at most {limit}"
            raise LimitError(message, hint="split the text into sentences", param=request.field)
        if request.task == "encode":
            return 0
        if request.max_tokens is not None and request.max_tokens > room:
            message = f"max_tokens is {request.max_tokens}; the model writes at most {room}"
            raise LimitError(message + " after this prompt" * (room < limit - 1), param="max_tokens")
        return request.max_tokens or min(self._default_max_tokens, room)

    def _plan(self, controls: tuple[Control, ...]) -> CompiledControls | None:
        return self._compile(controls) if controls else None


def _max_positions(loaded: LoadedModel) -> int:
    config = loaded.model.config.get_text_config()
    known = [getattr(config, name, None) for name in _POSITIONS]
    return next((int(number) for number in known if isinstance(number, int) and number > 0), _UNLIMITED_POSITIONS)


def _model_info(loaded: LoadedModel, model_id: str, max_positions: int) -> ModelInfo:
    model = loaded.model
    return ModelInfo(
        id=model_id,
        architecture=loaded.sites.model_type,
        fingerprint=loaded.fingerprint,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        max_positions=max_positions,
        created=int(time.time()),
    )


def _set_info(name: str, found: NeuronSet) -> SetInfo:
    advice = found.recommended
    recommended = {"op": advice.op, "where": advice.where, "strength": dict(advice.strength), "top": advice.top}
    sites = tuple(str(site.site) for site in found.sites)
    labels, count = found.labels, found.num_neurons
    return SetInfo(name, found.digest, found.concept, labels, count, sites, recommended, found.evidence)
