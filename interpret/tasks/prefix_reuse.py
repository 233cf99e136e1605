"""Passes that compute only what a change can reach: what comes before it is taken from an earlier pass, row by row.

A change at some sites of a layer leaves the layers before as they were, and within the layer every module that was done
before the first of the sites was reached; a change in a decoder also leaves what its layers made of the encoder's
output. These modules return what they returned in the recorded pass. The language-model head runs at scored positions
alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from neurodial.control.addresses import Site, Stack
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.losses import IGNORED
from neurodial.interpret.tasks.tasks import Batch, Measure, forward


class Head:
    """Scores of a batch's rows from logits at scored positions only.

    Args:
        loaded: the model.
        batch: the task.
    """

    def __init__(self, loaded: LoadedModel, batch: Batch) -> None:
        self._loaded = loaded
        scored = batch.labels != IGNORED
        most = int(scored.sum(1).max())
        self.places = scored.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        self._short = batch.at(self.places)
        self._whole = batch

    def scores(self, batch: Batch, rows: torch.Tensor, measure: Measure) -> torch.Tensor:
        """(rows,) of a pass over `batch`, whose rows are such of the task."""
        model: Any = self._loaded.model
        head, places = model.get_output_embeddings(), self.places[rows]
        cut: list[bool] = []

        def keep(_: nn.Module, args: tuple[Any, ...]) -> Any:
            if len(args) != 1 or args[0].shape[:2] != batch.labels.shape:
                return None
            cut.append(True)
            return (args[0].gather(1, places[..., None].expand(-1, -1, args[0].shape[-1])),)

        with ExitStack() as hooks:
            if head is not None:
                hooks.callback(head.register_forward_pre_hook(keep).remove)
            logits = forward(self._loaded, batch)
        return (self._short if cut else self._whole).select(rows).score(logits, measure)


class Recording:
    """What a pass computes that changes at some sites cannot reach.

    Args:
        loaded: the model.
        sites: they are changed together, or in rows of one batch.

    Attributes:
        outputs: module → what it returned.
        values: site → its (rows, tokens, width) activations.
    """

    def __init__(self, loaded: LoadedModel, sites: Sequence[Site]) -> None:
        self.outputs: dict[nn.Module, Any] = {}
        self.values: dict[Site, torch.Tensor] = {}
        self._loaded = loaded
        self._sites = sites
        self._calls: Counter[nn.Module] = Counter()
        self._encoded: list[torch.Tensor] = []

    @contextmanager
    def of_the_pass(self) -> Iterator[None]:
        """Records the pass inside the block."""
        stack: Stack = "encoder" if any(site.stack == "encoder" for site in self._sites) else "decoder"
        first = min(site.layer or 0 for site in self._sites if site.stack == stack)
        layers = self._loaded.sites.layers
        with ExitStack() as hooks:
            for site in self._sites:
                hooks.callback(hook_site(self._loaded.sites.info(site), partial(self._see, site)).remove)
            before, rest = layers[stack][:first], layers[stack][first:]
            plan = [(info.module, self._note) for info in before]
            plan += [(module, self._note_early) for info in rest[:1] for module in _inside(info.module)]
            if stack == "decoder" and self._loaded.family == "encoder-decoder":
                model: Any = self._loaded.model
                hooks.callback(model.get_encoder().register_forward_hook(self._note_encoded).remove)
                plan += [(info.module, self._note) for info in layers["encoder"]]
                plan += [(module, self._note_translated) for info in rest for module in _inside(info.module)]
            for module, function in plan:
                hooks.callback(module.register_forward_hook(function).remove)
            yield
        self.outputs = {module: output for module, output in self.outputs.items() if self._calls[module] == 1}

    def _see(self, site: Site, x: torch.Tensor) -> None:
        self.values[site] = x

    def _note(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._calls[module] += 1
        self.outputs[module] = _copied(output)

    def _note_early(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Until the first of the sites is reached; a module that is called again later has another output then."""
        self._calls[module] += 1
        if not self.values:
            self.outputs[module] = _copied(output)

    def _note_encoded(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._encoded.append(output[0])

    def _note_translated(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """What sees the encoder's output alone."""
        if args and any(args[0] is x for x in self._encoded):
            self.outputs[module] = _copied(output)
            self._calls[module] = 1

    @contextmanager
    def replayed(self, rows: torch.Tensor, num_rows: int) -> Iterator[None]:
        """In passes inside the block the modules return what they returned for these of the `num_rows` rows."""
        try:
            for module, output in self.outputs.items():
                module.forward = _returning(output, rows, num_rows)
            yield
        finally:
            for module in self.outputs:
                module.__dict__.pop("forward", None)


def _inside(layer: nn.Module) -> list[nn.Module]:
    return [module for module in layer.modules() if module is not layer]


def _returning(output: Any, rows: torch.Tensor, num_rows: int) -> Callable[..., Any]:
    return lambda *args, **kwargs: _picked(output, rows, num_rows)


def _copied(output: Any) -> Any:
    """What comes later may write into it, as Falcon does into what its FFN returned."""
    if isinstance(output, tuple | list):
        return type(output)(_copied(part) for part in output)
    return output.clone() if isinstance(output, torch.Tensor) else output


def _picked(output: Any, rows: torch.Tensor, num_rows: int) -> Any:
    """The rows of what has rows; layers that flatten (rows, tokens) have a multiple of them."""
    if isinstance(output, tuple | list):
        return type(output)(_picked(part, rows, num_rows) for part in output)
    if not isinstance(output, torch.Tensor) or output.dim() < 2 or len(output) % num_rows:
        return output
    return output.unflatten(0, (num_rows, -1))[rows].flatten(0, 1)
