"""Watching a model run on a few tokens: which modules run, on what, and what depends on what."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

ROWS, TOKENS, DECODER_TOKENS = 2, 6, 5


@dataclass
class Trace:
    """One forward pass; names are relative to the base model.

    Attributes:
        calls: names of the watched modules in the order of their calls.
        received: name → first argument of the latest call.
        returned: name → output (of a tuple the first) of the latest call.
        arguments: name → all arguments of the latest call.
    """

    calls: list[str] = field(default_factory=list)
    received: dict[str, torch.Tensor] = field(default_factory=dict)
    returned: dict[str, torch.Tensor] = field(default_factory=dict)
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Enough(Exception):
    """Ends a pass as soon as it has shown what was asked for."""


class DryRun:
    """Runs a model on fixed token ids, in evaluation mode and without gradients; it leaves the model as it was.

    Args:
        model: any text model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.base: nn.Module = model.base_model
        self.inputs = _inputs(model)

    def trace(self, names: Sequence[str]) -> Trace:
        """Watches some of the base model's modules in one whole pass."""
        trace = Trace()
        with ExitStack() as hooks:
            for name in names:
                module = self.base.get_submodule(name)
                for handle in _watch(trace, name, module):
                    hooks.callback(handle.remove)
            self._run(self.inputs)
        return trace

    def after_another_last_token(self, name: str) -> torch.Tensor:
        """What a module returns when the last token of the input is another one."""
        ids = self.inputs["input_ids"].clone()
        ids[:, -1] = ids[:, 0]
        trace = Trace()
        with ExitStack() as hooks:
            for handle in _watch(trace, name, self.base.get_submodule(name)):
                hooks.callback(handle.remove)
            self._run(self.inputs | {"input_ids": ids})
        return trace.returned[name]

    def reach(self, source: str, target: str, token: int, column: int) -> set[tuple[int, int]]:
        """Moves one value of one module's output and sees what another module receives.

        Returns:
            The (token, neuron) pairs of the target's first argument that change, in the first row.
        """
        before, after = self._received(source, target, None), self._received(source, target, (token, column))
        changed = (before != after).reshape(ROWS, -1, before.shape[-1])
        return {(int(t), int(n)) for t, n in changed[0].nonzero()}

    def _received(self, source: str, target: str, moved: tuple[int, int] | None) -> torch.Tensor:
        found: list[torch.Tensor] = []

        def move(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
            new = output.clone()
            if moved is not None:
                new.view(ROWS, -1, output.shape[-1])[0, moved[0], moved[1]] += 3 * (1 + output.abs().max())
            return new

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(_first(module, args, kwargs).clone())
            raise _Enough

        with ExitStack() as hooks:
            hooks.callback(self.base.get_submodule(source).register_forward_hook(move).remove)
            target_module = self.base.get_submodule(target)
            hooks.callback(target_module.register_forward_pre_hook(stop, with_kwargs=True).remove)
            self._run(self.inputs)
        return found[0]

    def _run(self, inputs: dict[str, torch.Tensor]) -> None:
        with torch.no_grad(), _evaluating(self.model):
            try:
                self.model(**inputs)
            except _Enough:
                return


def _inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Token ids without a special one among them."""
    config = model.config.get_text_config()
    special = {v for n, v in config.to_dict().items() if n.endswith(("token_id", "token_index")) and isinstance(v, int)}
    usable = [i for i in range(min(int(config.vocab_size), 200)) if i not in special]

    def ids(tokens: int, offset: int) -> torch.Tensor:
        chosen = [[usable[(7 * row + 3 * t + offset) % len(usable)] for t in range(tokens)] for row in range(ROWS)]
        return torch.tensor(chosen, device=model.device)

    inputs = {"input_ids": ids(TOKENS, 0), "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.long)}
    inputs["attention_mask"] = inputs["attention_mask"].to(model.device)
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids(DECODER_TOKENS, 11)
    return inputs


def _watch(trace: Trace, name: str, module: nn.Module) -> Iterator[Any]:
    signature = inspect.signature(module.forward)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trace.calls.append(name)
        trace.arguments[name] = arguments = signature.bind_partial(*args, **kwargs).arguments
        first = next(iter(arguments.values()), None)
        if isinstance(first, torch.Tensor):
            trace.received[name] = first.clone()

    def after(_: nn.Module, __: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if isinstance(value, torch.Tensor):
            trace.returned[name] = value.clone()

    yield module.register_forward_pre_hook(before, with_kwargs=True)
    yield module.register_forward_hook(after)


def _first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    first: torch.Tensor = next(iter(inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments.values()))
    return first


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
