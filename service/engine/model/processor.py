"""What becomes of a request before it is served: checked against the model, tokenised, its controls compiled."""

import secrets
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.catalogue import SetSource
from neurodial.control.artifacts.neuron_set import ReadOut
from neurodial.control.controls import Control
from neurodial.control.distilled.head import Head, Reading
from neurodial.control.errors import AddressError, BadInput, ControlError, LimitError, NeuronSetError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.positions import positions_of
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.service.engine.model.columns import Column, of_stack, read_columns, read_gates
from neurodial.service.engine.model.describing import describe, model_info
from neurodial.service.engine.model.forward.lm_head import block_lm_head
from neurodial.service.engine.model.kv_cache import RowCache
from neurodial.service.engine.model.languages import Direction, Languages
from neurodial.service.engine.model.prompts import Prompts
from neurodial.service.engine.model.runner import ModelRunner
from neurodial.service.engine.model.sampling import ModelDefaults
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.sets import read_set, set_info
from neurodial.service.engine.types import NOTHING_APPLIED, EngineInfo, NeuronInfo, Prepared, SetInfo
from neurodial.service.errors import ContextLengthExceeded

_NO_LANGUAGES = Direction()
_COMPILED_CACHE = 256  # distinct lists of controls whose compilation is remembered


class RequestReader:
    """Prepares requests for one model, and answers what takes no place in the batch; see `EngineClient`.

    Args:
        loaded: the model, or its structure.
        sets: where neuron sets that requests name are looked up.
        model_id: what requests call the model; its own name where absent.
        default_max_tokens: most tokens generated where a request does not say.
        allow_changed_weights: take sets of an ancestor of the model although weights were changed since.
        calibration: of the model; pruning an address to the mean and limits need it.
        max_deviations: standard deviations that a control may move a neuron from its mean.
        max_prompt_tokens: tokens of one prompt; as many as the model reads where absent.
        max_neurons: neurons that one request's controls may touch; no limit where absent.
        max_set_bytes: the largest neuron-set file that `check_set` takes.
        languages: (source, target) of requests to a multilingual model that name none.
        head: of a distilled model: its classifier.
        check: refuses controls that compile, but that the engine cannot apply.

    Attributes:
        info: the model and its neuron sets.
        decode: the text of generated tokens.

    Raises:
        FingerprintError: if a set or the calibration was made for another model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sets: SetSource,
        *,
        model_id: str | None = None,
        default_max_tokens: int = 256,
        allow_changed_weights: bool = False,
        calibration: Calibration | None = None,
        max_deviations: float | None = None,
        max_prompt_tokens: int | None = None,
        max_neurons: int | None = None,
        max_set_bytes: int = 64 * 1024 * 1024,
        languages: tuple[str, str] | None = None,
        head: Head | None = None,
        check: Callable[[CompiledControls], None] = lambda _: None,
    ) -> None:
        named = {name: sets.get(name) for name in sets.names()}
        for found in named.values():
            found.check_model(loaded, allow_changed_weights=allow_changed_weights)
        if calibration is not None:
            calibration.check_model(loaded, allow_changed_weights=allow_changed_weights)
        self._loaded, self._sets, self._head = loaded, sets, head
        self._languages = Languages.of(loaded.model, loaded.tokenizer)
        if self._languages and languages:
            self._languages = self._languages.with_usual(*languages)
        self._prompts = prompts = Prompts(loaded, self._languages)
        self._defaults = ModelDefaults.of(loaded.model)
        self._max_positions = positions_of(loaded.model)
        self._default_max_tokens = default_max_tokens
        self._allow_changed_weights = allow_changed_weights
        self._calibration = calibration
        self._max_prompt_tokens = max_prompt_tokens
        self._max_neurons, self._max_set_bytes = max_neurons, max_set_bytes

        def compiled(controls: tuple[Control, ...]) -> CompiledControls:
            options: dict[str, Any] = {"calibration": calibration, "max_deviations": max_deviations}
            plan = compile_controls(loaded, controls, sets, allow_changed_weights=allow_changed_weights, **options)
            check(plan)
            return plan

        self._compile = lru_cache(_COMPILED_CACHE)(compiled)
        self.decode, self.tokenize, self.detokenize = prompts.decode, prompts.tokenize, prompts.detokenize
        cards = tuple(set_info(name, found) for name, found in named.items())
        about = model_info(loaded, model_id or loaded.name, self._max_positions, prompts, head, self._languages)
        self.info = EngineInfo(about, cards)

    def prepare(self, request: EngineRequest) -> Prepared:
        """Tokenises a prompt and compiles its controls; see `Runner.prepare`.

        Raises:
            BadInput: if the model cannot do what is asked.
            LimitError: if the prompt or what is asked for do not fit.
            ControlError, AddressError, FingerprintError: naming the field.
        """
        if request.task != "generate":
            return self._prepare_reading(request)
        if not self._loaded.writes:
            raise BadInput("this model reads text and does not write any", param="model", hint="choose another model")
        direction = self._languages.direction(*request.languages) if self._languages else _NO_LANGUAGES
        ids = self._prompts.ids_of(request, direction)
        max_tokens = self._max_tokens(request, len(ids))
        size = self._prompts.vocab_size
        named = {"logit_bias": [token for token, _ in request.logit_bias], "stop_token_ids": request.stop_token_ids}
        for field, tokens in named.items():
            if wrong := [token for token in tokens if not 0 <= token < size]:
                raise BadInput(f"{field}: there is no token {wrong[0]}, the last is {size - 1}", param=field)
        if request.min_tokens > max_tokens:
            message = f"min_tokens is {request.min_tokens}, and at most {max_tokens} are generated"
            raise BadInput(message, param="min_tokens")
        seed = secrets.randbits(63) if request.seed is None else request.seed
        plan, took = self._plan(request.controls)
        start, first = (
            asked if asked is not None else usual
            for asked, usual in ((direction.start, self._defaults.start), (direction.first, self._defaults.first))
        )
        ends = frozenset(request.stop_token_ids) | (frozenset() if request.ignore_eos else self._defaults.end_ids)
        return Prepared(ids, max_tokens, plan, seed, ends, compile_s=took, start=start, first=first)

    def check_set(self, data: bytes) -> SetInfo:
        """See `EngineClient.check_set`."""
        found = read_set(data, self._max_set_bytes)
        found.check_model(self._loaded, allow_changed_weights=self._allow_changed_weights)
        named = [(part.site, part.indices) for part in found.sites]
        for site, indices in [*named, *((part.site, part.indices) for part in found.readouts)]:
            try:
                width = self._loaded.original_width(site)
            except AddressError as error:
                raise NeuronSetError(f"the neuron set {found.concept!r}: {error.message}") from None
            if indices.max(initial=-1) >= width or indices.min(initial=0) < 0:
                raise NeuronSetError(f"the neuron set {found.concept!r} names neurons that {site} does not have")
        return set_info(found.concept, found)

    def describe(self, address: str, sets: tuple[str, ...]) -> NeuronInfo:
        """See `EngineClient.describe`."""
        return describe(address, self._loaded, [(name, self._sets.get(name)) for name in sets], self._calibration)

    def validate(self, controls: tuple[Control, ...]) -> Mapping[str, Any]:
        """See `EngineClient.validate`."""
        plan, _ = self._plan(controls)
        return NOTHING_APPLIED if plan is None else plan.summary()

    def _prepare_reading(self, request: EngineRequest) -> Prepared:
        """A request that is read in one pass: its tokens, those of its target, and the neurons that it asks for."""
        if request.task == "score" and self._loaded.family != "decoder-only":
            message = "this model does not go on from its prompt, whose tokens have no probabilities then"
            raise BadInput(message, hint="choose a causal language model, or drop echo", param="model")
        reading = self._reading_of(request)
        direction = self._languages.reading() if self._languages else _NO_LANGUAGES
        ids = self._prompts.ids_of(request, direction) if reading is None else reading.ids
        self._check_length(len(ids), request.field)
        columns: tuple[Column, ...] = ()
        readouts: tuple[ReadOut, ...] = ()
        if request.task == "activations":
            columns = read_columns(
                request.neurons, self._loaded, self._sets, allow_changed_weights=self._allow_changed_weights
            )
            readouts = read_gates(request.neurons, self._loaded, self._sets)
        target = self._target_ids(request, columns, direction)
        of_target = len(of_stack(columns, "decoder")) if target else 0
        num_values = (len(columns) - of_target) * len(ids) + of_target * len(target)
        plan, took = self._plan(request.controls)
        if plan is not None:
            self._check_acts(plan, has_target=bool(target))
        asked: dict[str, Any] = {"target_ids": target, "neurons": columns, "num_values": num_values, "reading": reading}
        asked["readouts"] = readouts
        return Prepared(ids, 0, plan, compile_s=took, **asked)

    def _reading_of(self, request: EngineRequest) -> Reading | None:
        """What a distilled model classifies in a text; None where the model's own states are asked for."""
        if self._head is None and request.task == "classify":
            raise BadInput("this model does not classify", hint="models made by neurodial distill do", param="model")
        if self._head is None or request.task in ("activations", "score"):
            return None
        return self._prompts.read(request, self._head)

    def _target_ids(self, request: EngineRequest, columns: tuple[Column, ...], direction: Direction) -> tuple[int, ...]:
        start = self._defaults.start
        if request.target is None:
            if start is not None and of_stack(columns, "decoder"):
                message = "target is missing: the neurons of the decoder need a text that it reads"
                raise BadInput(message, hint="give the output that it would write", param="target")
            return ()
        if start is None or request.task != "activations":
            raise BadInput("target is for activations of an encoder–decoder model", hint="drop it", param="target")
        ids = self._prompts.target_ids(request.target, start, self._defaults.end_ids, direction)
        self._check_length(len(ids), "target")
        return ids

    def _check_acts(self, plan: CompiledControls, *, has_target: bool) -> None:
        """Refuses controls that a single pass over the text cannot apply: they are never silently dropped."""
        is_half = self._loaded.family == "encoder-decoder" and not has_target
        for number, control in enumerate(plan.controls):
            here = f"controls[{number}]"
            if any(effect.condition.trigger for effect in control.effects):
                raise ControlError(f"{here}.when: a trigger acts while text is generated", param=f"{here}.when")
            if is_half and all(effect.site.stack == "decoder" for effect in control.effects):
                message = f"{here} is on the decoder, which does not run here"
                raise ControlError(message, hint="drop it; to read activations, give a target", param=here)

    def _check_length(self, count: int, field: str, *, reserved: int = 0) -> None:
        most = self._max_positions - reserved
        if count > most:
            message = f"{field} has {count} tokens; the model reads at most {most}"
            raise ContextLengthExceeded(message, hint="split the text into sentences", param=field)
        if self._max_prompt_tokens is not None and count > self._max_prompt_tokens:
            message = f"{field} has {count} tokens; this server reads at most {self._max_prompt_tokens}"
            raise LimitError(message, hint="split the text into sentences", param=field)

    def _max_tokens(self, request: EngineRequest, num_prompt: int) -> int:
        """Most tokens to generate.

        Raises:
            LimitError: if the prompt or what is asked for do not fit.
        """
        limit = self._max_positions
        is_causal = self._loaded.family == "decoder-only"
        self._check_length(num_prompt, request.field, reserved=int(is_causal))
        room = limit - num_prompt if is_causal else limit - 1
        if request.max_tokens is not None and request.max_tokens > room:
            message = f"max_tokens is {request.max_tokens}; the model writes at most {room}"
            raise ContextLengthExceeded(message + " after this prompt" * (room < limit - 1), param="max_tokens")
        return request.max_tokens or min(self._default_max_tokens, room)

    def _plan(self, controls: tuple[Control, ...]) -> tuple[CompiledControls | None, float]:
        """Compiled controls, and the seconds that it took."""
        started = time.perf_counter()
        plan = self._compile(controls) if controls else None
        if plan is not None and self._max_neurons is not None and plan.num_neurons > self._max_neurons:
            message = f"controls touch {plan.num_neurons:,} neurons; at most {self._max_neurons:,} are accepted"
            raise LimitError(message, hint="name fewer neurons, or set top", param="controls")
        return plan, time.perf_counter() - started


class RequestProcessor(RequestReader):
    """Prepares requests for a loaded model and has the runner that makes their tokens.

    Args:
        loaded: the model.
        sets: where neuron sets that requests name are looked up.
        max_rows: rows decoded together, at most.
        cache: where keys and values are kept; the preallocated cache where absent.
        head: of a distilled model: its classifier.
        compiles: the decoding step, where the model and the machine allow that; see `capture`.
        **options: of `RequestReader`.

    Attributes:
        runner: makes the tokens. It owns the model: nothing else may run it.

    Raises:
        FingerprintError: if a set or the calibration was made for another model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sets: SetSource,
        *,
        max_rows: int = 32,
        cache: RowCache | None = None,
        head: Head | None = None,
        compiles: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(loaded, sets, head=head, **options)
        block_lm_head(loaded.model)
        prompts = self._prompts
        self.runner = ModelRunner(
            loaded, self._defaults, max_rows, cache, prompts.added, prompts.pieces, head, compiles=compiles
        )
