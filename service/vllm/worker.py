"""vLLM's workers under control: sites are hooked after loading and before compiling; passes are announced.

`_Controlled` is what every worker does; how a pass is announced depends on vLLM's model runner, of which there are two.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from vllm.platforms import current_platform
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput
from vllm.v1.worker.gpu_worker import Worker

from neurodial.control.errors import InternalError, ModelError, NeurodialError
from neurodial.control.runtime.packed import PackedController
from neurodial.service.vllm import ops
from neurodial.service.vllm.places import open_sites, places_of
from neurodial.service.vllm.settings import KEY, declared_for, read_settings
from neurodial.service.vllm.wire import program_of

logger = logging.getLogger(__name__)

_REASONS = 4096  # of failures that nobody has asked for yet


class _Controlled(Worker):
    """A worker whose model's declared sites are under control."""

    _controller: PackedController
    _failed: set[str]  # requests, until they have left
    _reasons: dict[str, tuple[str, str]]  # key → an error's code and what it says, until it is asked for

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Loads the model and hooks it."""
        super().load_model(*args, **kwargs)
        config = self.vllm_config
        settings = read_settings(config.additional_config[KEY])
        declared = declared_for(settings, config)
        static = not current_platform.is_cpu() if settings.static is None else settings.static
        runner: Any = self.model_runner
        controller = self._controller = PackedController(declared, runner.device, static=static)
        self._failed, self._reasons = set(), {}
        text_config = config.model_config.hf_config.get_text_config()
        places = places_of(runner.model, text_config, settings.sites)
        open_sites(places, lambda p: controller.open(p.site, p.width, p.part), ops.SITES)
        announce(runner, controller)

    def compile_or_warm_up_model(self) -> Any:
        """Compiles, and then makes sure that every declared site acts.

        Raises:
            ModelError: naming a site that does not: a compiled model from a cache may have been made without it.
        """
        times = super().compile_or_warm_up_model()
        for site in self._controller.sites:
            with self._controller.probing(site):
                hidden = self.model_runner._dummy_run(1)[0]
            parts = hidden.tensors.values() if hasattr(hidden, "tensors") else (hidden,)
            if not any(bool(part.isnan().any()) for part in parts if part is not None):
                raise ModelError(f"{site} is not under control in this model of vLLM's", hint="empty its compile cache")
        return times

    def execute_model(self, scheduler_output: Any) -> Any:
        """One pass: requests come and go before, and what is not a number is found after."""
        controller = self._controller
        controller.retire(scheduler_output.finished_req_ids)
        self._failed -= scheduler_output.finished_req_ids
        for new in scheduler_output.scheduled_new_reqs:
            self._admit(new)
        output = super().execute_model(scheduler_output)
        state = getattr(self.model_runner, "execute_model_state", None)
        if state is not None and state.hidden_states is not None:
            controller.look(state.hidden_states)
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """The pass's tokens, with the requests that have failed."""
        output = super().sample_tokens(grammar_output)
        broken = self._controller.broken()
        if isinstance(output, AsyncModelRunnerOutput):
            return _Marked(output, lambda arrived: self._marked(arrived, broken))
        return self._marked(output, broken)

    def neurodial_take(self, key: str, tokens: int) -> dict[str, Any]:
        """What the requests of a key did, and why one failed if one did; by `collective_rpc`."""
        return {"done": self._controller.take(key, tokens), "failed": self._reasons.pop(key, None)}

    def _marked(self, output: Any, broken: Callable[[], dict[str, str]]) -> Any:
        """An output that names the requests that have failed: the scheduler ends them."""
        for request, key in broken().items():
            self._fail(request, key, InternalError("the model computed values that are not numbers"))
        if self._failed and output is not None:
            here = {request: 1 for request in self._failed if request in output.req_id_to_index}
            output.num_nans_in_logits = (output.num_nans_in_logits or {}) | here
        return output

    def _fail(self, request: str, key: str, error: NeurodialError) -> None:
        if request not in self._failed:
            logger.error("request %s failed: %s", request, error.message)
            self._failed.add(request)
            self._reasons[key] = error.code, error.message
        while len(self._reasons) > _REASONS:
            self._reasons.pop(next(iter(self._reasons)))

    def _admit(self, new: Any) -> None:
        params = new.sampling_params
        sent = (params.extra_args or {}).get(KEY) if params is not None else None
        if sent is None or self._controller.holds(new.req_id) or new.req_id in self._failed:
            return  # a request that was preempted goes on
        try:
            self._controller.admit(new.req_id, sent["key"], sent["digest"], lambda: program_of(sent["effects"]))
        except NeurodialError as error:
            self._fail(new.req_id, sent["key"], error)


class _Marked(AsyncModelRunnerOutput):
    """An output that is on its way from the device."""

    def __init__(self, output: AsyncModelRunnerOutput, marked: Callable[[Any], Any]) -> None:
        self._output, self._mark = output, marked

    def get_output(self) -> ModelRunnerOutput:
        """Waits for it."""
        marked: ModelRunnerOutput = self._mark(self._output.get_output())
        return marked


def announce(runner: Any, controller: PackedController) -> None:
    """Has a model runner say before each pass whose tokens it is about."""
    state = getattr(runner, "model_state", None)
    if state is None:
        runner.__class__ = _first_runner(type(runner), controller)
    else:
        state.__class__ = _second_state(type(state), controller)


def _first_runner(base: Any, controller: PackedController) -> Any:
    class ControlledRunner(base):
        def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
            batch, n = self.input_batch, self.input_batch.num_reqs
            counts = np.diff(self.query_start_loc.np[: n + 1])
            first = batch.num_computed_tokens_cpu[:n] - batch.num_prompt_tokens[:n] + 1
            controller.begin(batch.req_ids[:n], counts, first)
            return super()._model_forward(*args, **kwargs)

    return ControlledRunner


def _second_state(base: Any, controller: PackedController) -> Any:
    class ControlledState(base):
        def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any:
            n = input_batch.num_reqs
            prompt = req_states.prompt_len.np[input_batch.idx_mapping_np[:n]]
            first = input_batch.num_computed_tokens_np[:n] - prompt + 1
            controller.begin(input_batch.req_ids[:n], input_batch.num_scheduled_tokens[:n], first)
            return super().prepare_inputs(input_batch, req_states)

    return ControlledState


class GPUWorker(_Controlled):
    """In place of `vllm.v1.worker.gpu_worker.Worker`."""


if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as _CPUWorker

    class CPUWorker(_Controlled, _CPUWorker):
        """In place of `vllm.v1.worker.cpu_worker.CPUWorker`."""
