"""vLLM's schedulers, which end the requests that a worker says have failed: an error, never an uncontrolled answer."""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from neurodial.service.vllm.settings import KEY


class _FailsClosed(Scheduler):
    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Takes a pass's tokens; those of requests under control that have failed go nowhere."""
        for name in model_runner_output.num_nans_in_logits or ():
            request = self.requests.get(name)
            params = request.sampling_params if request is not None else None
            if params is not None and KEY in (params.extra_args or {}):
                place = model_runner_output.req_id_to_index[name]
                if model_runner_output.sampled_token_ids:
                    model_runner_output.sampled_token_ids[place] = []
                self.grammar_compile_error_reqs.add(name)  # ended as FINISHED_ERROR by the call below
        return super().update_from_output(scheduler_output, model_runner_output)


class ControlledScheduler(_FailsClosed):
    """In place of vLLM's `Scheduler`."""


class ControlledAsyncScheduler(_FailsClosed, AsyncScheduler):
    """In place of vLLM's `AsyncScheduler`."""
