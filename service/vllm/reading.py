"""What becomes of a request before vLLM gets it: checked, tokenised, its controls compiled, in vLLM's words."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from neurodial.control.artifacts.catalogue import SetSource
from neurodial.control.errors import BadInput, ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.service.engine.model.processor import RequestReader
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.types import EngineInfo, TokenLogprob
from neurodial.service.vllm.admission import payload
from neurodial.service.vllm.settings import KEY


class VllmReader(RequestReader):
    """Prepares requests for vLLM: what it cannot do is refused by name.

    Args:
        loaded: the model's structure.
        sets: where neuron sets that requests name are looked up.
        config: vLLM's.
        **options: of `RequestReader`.

    Raises:
        ModelError: for generation settings that vLLM does not follow.
    """

    def __init__(self, loaded: LoadedModel, sets: SetSource, config: Any, **options: Any) -> None:
        super().__init__(loaded, sets, **options)
        self._max_positions = int(config.model_config.max_model_len)
        about = replace(
            self.info.model,
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            device=str(config.device_config.device_type),
            max_positions=self._max_positions,
        )
        self.info = EngineInfo(about, self.info.sets)
        if self._defaults.first is not None or self._defaults.config.forced_eos_token_id is not None:
            raise ModelError("the model's generation settings force tokens, which `engine: vllm` does not do")

    def prepare(self, request: EngineRequest) -> Any:
        """See `RequestReader.prepare`.

        Raises:
            BadInput: for what vLLM does not do.
        """
        config = self._defaults.config
        refused = {
            "task": request.task != "generate" and request.task,
            "num_beams": request.num_beams > 1,
            "no_repeat_ngram_size": request.no_repeat_ngram_size or config.no_repeat_ngram_size,
        }
        for field, is_asked in refused.items():
            if is_asked:
                what = f"{request.task} requests" if field == "task" else field
                raise BadInput(
                    f"{what}: this model is served by vLLM, which does not do that here",
                    param="model" if field == "task" else field,
                    hint="serve the model with engine: native",
                )
        return super().prepare(request)

    def sampling(self, sequence: Sequence) -> Any:
        """A sequence's request as vLLM takes it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        request, prepared = sequence.request, sequence.prepared
        penalty = request.repetition_penalty or self._defaults.config.repetition_penalty
        params: Any = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            ignore_eos=request.ignore_eos,
            min_tokens=request.min_tokens,
            seed=prepared.seed,
            max_tokens=prepared.max_tokens,
            repetition_penalty=penalty or 1.0,
            logit_bias=dict(request.logit_bias) or None,
            logprobs=request.logprobs,
            stop_token_ids=sorted(prepared.end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=None if prepared.plan is None else {KEY: payload(prepared.plan, request.id)},
        )
        params._bad_words_token_ids = [[token] for token in self._defaults.banned] or None
        return params

    def logprob_of(self, sequence: Sequence, token: int, told: Mapping[int, Any] | None) -> TokenLogprob | None:
        """What vLLM tells of a token, in our words."""
        if told is None:
            return None
        ranked = sorted(told.items(), key=lambda item: item[1].rank)[: sequence.request.logprobs or 0]
        top = tuple((self.decode([one]), float(known.logprob)) for one, known in ranked)
        return TokenLogprob(self.decode([token]), float(told[token].logprob), top)
