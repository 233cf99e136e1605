"""The model behind an engine: batches of encoder–decoder rows through `generate`, each row under its own controls."""

import secrets
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import lru_cache
from typing import Any

import torch
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from neurodial.control.catalogue import SetCatalogue
from neurodial.control.compiling import CompiledControls, compile_controls
from neurodial.control.controls import Control
from neurodial.control.errors import LimitError, ModelError
from neurodial.control.hooks import Application, controlled
from neurodial.control.loading import LoadedModel
from neurodial.control.neuron_set import NeuronSet
from neurodial.service.engine.primitives import EngineInfo, ModelInfo, Prepared, Request, SetInfo
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.steps import BeamCriterion, RowCriterion, RowProcessor

_COMPILED_CACHE = 256  # distinct lists of controls whose compilation is remembered


class ModelRunner:
    """Runs one loaded encoder–decoder model. The runner owns the model: nothing else may run it.

    Args:
        loaded: the model.
        sets: the neuron sets that requests may name.
        model_id: what requests call the model; its own name where absent.
        default_max_tokens: most tokens generated where a request does not say.
        allow_changed_weights: take sets of an ancestor of the model although weights were changed since.

    Raises:
        ModelError: for a model that is not an encoder–decoder.
        FingerprintError: if a set was made for another model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sets: SetCatalogue,
        *,
        model_id: str | None = None,
        default_max_tokens: int = 256,
        allow_changed_weights: bool = False,
    ) -> None:
        if loaded.family != "encoder-decoder":
            raise ModelError(f"{loaded.name}: only encoder–decoder models are served, this one is {loaded.family}")
        for name in sets.names():
            sets.get(name).check_model(loaded, allow_changed_weights=allow_changed_weights)
        self._loaded = loaded
        self._model: Any = _configured(loaded.model)
        self._tokenizer: Any = loaded.tokenizer
        self._tokenizer_lock = threading.Lock()  # MarianTokenizer switches its state and is not safe for two threads
        self._max_positions = int(loaded.model.config.max_position_embeddings)
        self._default_max_tokens = default_max_tokens
        self._compile = lru_cache(_COMPILED_CACHE)(
            lambda controls: compile_controls(loaded, controls, sets, allow_changed_weights=allow_changed_weights)
        )
        cards = tuple(_set_info(name, sets.get(name)) for name in sets.names())
        self.info = EngineInfo(_model_info(loaded, model_id or loaded.name, self._max_positions), cards)

    def prepare(self, request: Request) -> Prepared:
        """Tokenises a prompt and compiles its controls; see `Runner.prepare`.

        Raises:
            LimitError: if the prompt or `max_tokens` do not fit the model's positions.
            ControlError, AddressError, FingerprintError: naming the field.
        """
        with self._tokenizer_lock:
            ids = tuple(self._tokenizer(request.prompt, verbose=False)["input_ids"])
        if len(ids) > self._max_positions:
            message = f"{request.field} has {len(ids)} tokens; the model reads at most {self._max_positions}"
            raise LimitError(message, hint="split the text into sentences", param=request.field)
        longest = self._max_positions - 1
        if request.max_tokens is not None and request.max_tokens > longest:
            message = f"max_tokens is {request.max_tokens}; the model writes at most {longest}"
            raise LimitError(message, param="max_tokens")
        max_tokens = request.max_tokens or min(self._default_max_tokens, longest)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return Prepared(ids, max_tokens, self._plan(request.controls), seed)

    def decode(self, ids: Items[int]) -> str:
        """The text of generated tokens."""
        with self._tokenizer_lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def run(self, batch: Items[Sequence], beat: Callable[[], None]) -> None:
        """Generates for a batch of rows with the same `batch_key`; see `Runner.run`."""
        ids, mask = self._pad(batch)
        plans = [sequence.prepared.plan for sequence in batch]
        generate = self._run_rows if batch[0].request.num_beams == 1 else self._run_beams
        with torch.inference_mode(), controlled(self._loaded, plans) as application:
            generate(batch, {"input_ids": ids, "attention_mask": mask}, application, beat)

    def _plan(self, controls: tuple[Control, ...]) -> CompiledControls | None:
        return self._compile(controls) if controls else None

    def _pad(self, batch: Items[Sequence]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(sequence.prepared.prompt_ids) for sequence in batch)
        ids = torch.full((len(batch), width), int(self._model.config.pad_token_id), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(batch):
            length = len(sequence.prepared.prompt_ids)
            ids[row, :length] = torch.tensor(sequence.prepared.prompt_ids)
            mask[row, :length] = 1
        return ids.to(self._model.device), mask.to(self._model.device)

    def _run_rows(
        self,
        batch: Items[Sequence],
        inputs: dict[str, torch.Tensor],
        application: Application,
        beat: Callable[[], None],
    ) -> None:
        processor = RowProcessor(batch)
        criterion = RowCriterion(batch, processor, application, self._eos_ids, beat)
        self._model.generate(
            **inputs,
            num_beams=1,
            max_new_tokens=max(sequence.prepared.max_tokens for sequence in batch),
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([criterion]),
        )

    def _run_beams(
        self,
        batch: Items[Sequence],
        inputs: dict[str, torch.Tensor],
        application: Application,
        beat: Callable[[], None],
    ) -> None:
        beams, max_tokens = batch[0].batch_key
        processor = RowProcessor(batch, beams)
        criterion = BeamCriterion(batch, processor, application, self._eos_ids, beat)
        output = self._model.generate(
            **inputs,
            num_beams=beams,
            max_new_tokens=max_tokens,
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([criterion]),
        )
        criterion.deliver(output[:, 1:].tolist())  # without the decoder's start token

    @property
    def _eos_ids(self) -> frozenset[int]:
        eos = self._model.generation_config.eos_token_id
        return frozenset(eos if isinstance(eos, list) else [eos])


def _configured(model: PreTrainedModel) -> PreTrainedModel:
    """Drops generation defaults that would make a row depend on its batch's longest length."""
    config: Any = model.generation_config
    config.forced_eos_token_id = None
    config.max_length = None
    config.do_sample = False
    config.num_beams = 1
    return model


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
