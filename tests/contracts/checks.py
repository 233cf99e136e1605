"""What holds for every site of every architecture, each property as one function.

What the model's modules really receive is observed with plain torch hooks on all of them, never with our own: a row of
the table that names the wrong module is found out here.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from neurodial.control.addresses import Neurons, Site
from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import AffineMap, NeuronSet, Recommended, SiteNeurons
from neurodial.control.controls import parse_controls
from neurodial.control.models.capture import capture
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import SiteInfo
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.control.runtime.generate import controlled
from tests.tiny import load_tiny

# operation → (value, strength, closed form of one neuron's value); strength s means x + s·(op(x) − x)
OPERATIONS: dict[str, tuple[float | None, float, Callable[[torch.Tensor], torch.Tensor]]] = {
    "clamp": (1.5, 1.0, lambda x: torch.full_like(x, 1.5)),
    "amplify": (-2.0, 0.5, lambda x: x + 0.5 * (-2.0 * x - x)),
    "shift": (0.75, 2.0, lambda x: x + 2.0 * 0.75),
    "prune": (None, 1.0, torch.zeros_like),
}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
Inputs = dict[str, torch.Tensor]


@cache
def loaded_model(name: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A tiny model, made once in a session; whoever changes its weights puts them back."""
    return load_tiny(name, dtype=dtype)


def logits(loaded: LoadedModel, inputs: Inputs) -> torch.Tensor:
    """One forward pass without gradients."""
    with torch.inference_mode():
        found: torch.Tensor = loaded.model(**inputs).logits
    return found


def compiled(loaded: LoadedModel, *controls: dict[str, Any], sets: SetCatalogue | None = None) -> CompiledControls:
    """Controls of one row."""
    return compile_controls(loaded, parse_controls(list(controls)), sets)


def sample_sites(loaded: LoadedModel) -> list[SiteInfo]:
    """One site of every kind in every stack, in the last layer."""
    last = {(s.stack, s.kind): info for s, info in loaded.sites.sites.items()}
    return list(last.values())


def some_neurons(info: SiteInfo) -> list[int]:
    """The first, the last and two between."""
    return [0, info.width // 3, info.width // 2, info.width - 1]


@dataclass
class Seen:
    """What every module received and returned in a pass.

    Attributes:
        received: (module's name, its tensors) in the order of the calls.
        inputs: module's name → its first argument.
        outputs: module's name → what a linear module returned.
    """

    received: list[tuple[str, list[torch.Tensor]]] = field(default_factory=list)
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


@contextmanager
def observed(model: nn.Module) -> Iterator[Seen]:
    """Watches all modules of a model; hooks that are there already have acted before."""
    seen, handles = Seen(), []

    def before(name: str, module: nn.Module) -> Callable[..., None]:
        signature = inspect.signature(module.forward)

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            values = signature.bind(*args, **kwargs).arguments.values()
            tensors = [v.detach().clone() for v in values if isinstance(v, torch.Tensor)]
            seen.received.append((name, tensors))
            if tensors:
                seen.inputs[name] = tensors[0]

        return note

    def after(name: str) -> Callable[..., None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                seen.outputs[name] = output.detach().clone()  # Falcon adds to it in place later

        return note

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(before(name, module), with_kwargs=True))
        handles.append(module.register_forward_hook(after(name)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def consumed(loaded: LoadedModel, info: SiteInfo, seen: Seen, expected: torch.Tensor) -> torch.Tensor:
    """The tensor that the module after a site received; of several candidates the one nearest to `expected`."""
    site, layers = info.site, loaded.sites.layers[info.site.stack]
    if info.side == "input" and site.kind != "embed":
        return seen.inputs[info.path].view_as(expected)
    if site.kind == "resid" and site.layer != len(layers) - 1:
        return seen.inputs[layers[(site.layer or 0) + 1].path]
    names = [name for name, _ in seen.received]
    if site.kind == "embed":
        candidates = [t for name, ts in seen.received if name.startswith(f"{info.path}.") for t in ts]
    else:  # the last layer's output: whatever comes after the layer has run
        last = max(n for n, name in enumerate(names) if name.startswith(info.path))
        candidates = [t for _, ts in seen.received[last + 1 :] for t in ts]
    fitting = [t for t in candidates if t.shape == expected.shape and t.dtype == expected.dtype]
    assert fitting, f"{site}: no module receives a tensor of this shape"
    return min(fitting, key=lambda t: float((t - expected).abs().max()))


def weights_of(module: nn.Module) -> torch.Tensor:
    """A projection's weight as (out, in), sharing memory."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return weight.T if isinstance(module, Conv1D) else weight


@contextmanager
def without_outgoing_weights(info: SiteInfo, neurons: Sequence[int]) -> Iterator[None]:
    """Zeroes the weights that read some neurons, and puts them back."""
    weight = weights_of(info.module).detach()
    kept = weight.clone()
    weight[:, list(neurons)] = 0
    try:
        yield
    finally:
        weight.copy_(kept)


def check_recorded_is_consumed(loaded: LoadedModel, inputs: Inputs) -> None:
    """The recorded activation is the tensor that the next module consumes, and projecting it gives its output."""
    with observed(loaded.model) as seen, capture(loaded.model, loaded.sites.sites, loaded.sites) as recorded:
        logits(loaded, inputs)
    for site, x in recorded.items():
        info = loaded.sites.info(site)
        assert torch.equal(consumed(loaded, info, seen, x), x), site
        if site.kind in ("ffn", "attn", "cross"):
            bias: Any = info.module.bias
            with torch.no_grad():
                again = nn.functional.linear(x, weights_of(info.module), bias)
            close(again, seen.outputs[info.path].view_as(again), str(site))


def check_writing_back_changes_nothing(loaded: LoadedModel, inputs: Inputs) -> None:
    """At all sites at once, through the hooks and through controls: bit-identical logits, then and afterwards."""
    plain = logits(loaded, inputs)
    handles = [hook_site(info, torch.clone) for info in loaded.sites.sites.values()]
    assert torch.equal(logits(loaded, inputs), plain)
    for handle in handles:
        handle.remove()
    identity = compiled(loaded, *({"neurons": f"{s}[*]", "op": "amplify", "value": 1.0} for s in loaded.sites.sites))
    with controlled(loaded, [identity] * len(plain)):
        assert torch.equal(logits(loaded, inputs), plain)
    assert torch.equal(logits(loaded, inputs), plain)


def check_operation_is_its_closed_form(
    loaded: LoadedModel, inputs: Inputs, info: SiteInfo, control: CompiledControls, form: Callable[..., torch.Tensor]
) -> None:
    """What the next module receives at a controlled row is the closed form of what was recorded; other rows are left.

    Args:
        loaded: the model.
        inputs: of at least two rows.
        info: the touched site.
        control: for the first row.
        form: (positions, width) of the first row's positions that are not padding → the same, controlled.
    """
    with capture(loaded.model, [info.site], loaded.sites) as recorded:
        logits(loaded, inputs)
    expected = recorded[info.site].clone()
    valid = _valid(loaded, info.site, inputs)
    expected[0, valid] = form(expected[0, valid])
    with controlled(loaded, [control, *[None] * (len(expected) - 1)]), observed(loaded.model) as seen:
        logits(loaded, inputs)
    close(consumed(loaded, info, seen, expected), expected, str(info.site))
    assert not torch.equal(expected, recorded[info.site])


def _valid(loaded: LoadedModel, site: Site, inputs: Inputs) -> torch.Tensor:
    """Positions of the first row that are not padding."""
    if site.stack == "decoder" and loaded.family == "encoder-decoder":
        return torch.ones(inputs["decoder_input_ids"].shape[1], dtype=torch.bool)
    return inputs["attention_mask"][0].bool()


def operation(loaded: LoadedModel, info: SiteInfo, op: str) -> tuple[CompiledControls, Callable[..., torch.Tensor]]:
    """A control on some neurons of a site, and its closed form."""
    neurons = some_neurons(info)
    if op == "map":
        return _map(loaded, info, neurons)
    value, strength, closed = OPERATIONS[op]
    control: dict[str, Any] = {"neurons": str(Neurons(info.site, tuple(neurons))), "op": op, "strength": strength}
    if value is not None:
        control["value"] = value

    def form(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, neurons] = closed(x[:, neurons])
        return x

    return compiled(loaded, control), form


def _map(
    loaded: LoadedModel, info: SiteInfo, neurons: list[int]
) -> tuple[CompiledControls, Callable[..., torch.Tensor]]:
    """x[written] + M(x[read] − center) + offset, from a neuron set."""
    draw = np.random.default_rng(3)

    def floats(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    k, read = len(neurons), np.array([1, info.width // 2, info.width - 2], dtype=np.int64)
    written = np.array(neurons, dtype=np.int64)
    part = AffineMap(read, floats(k, 3), floats(3), floats(k))
    values = {"past": floats(k)}
    site = SiteNeurons(info.site, written, floats(k), values, values, floats(k), values, {}, {"past": part})
    found = NeuronSet(
        "tense", ("past",), "tiny", loaded.fingerprint, (site,), (), Recommended("map", "all", {"past": 1.0})
    )
    control = compiled(loaded, {"set": "tense", "to": "past"}, sets=SetCatalogue({"tense": found}))
    weight, center, offset = (torch.from_numpy(a) for a in (part.weight, part.center, part.offset))

    def form(x: torch.Tensor) -> torch.Tensor:
        new = x.clone()
        new[:, neurons] += ((x[:, torch.from_numpy(read)].float() - center) @ weight.T + offset).to(x.dtype)
        return new

    return control, form


def check_zeroing_equals_zeroed_weights(loaded: LoadedModel, inputs: Inputs, info: SiteInfo, address: str) -> None:
    """Pruning neurons by a control gives the logits of the model whose weights that read them are zero."""
    plain = logits(loaded, inputs)
    neurons = Neurons.parse(address, width=info.width, head_dim=info.head_dim).indices
    with without_outgoing_weights(info, neurons):
        edited = logits(loaded, inputs)
    with controlled(loaded, [compiled(loaded, {"neurons": address, "op": "prune"})] * len(plain)):
        ablated = logits(loaded, inputs)
    real = inputs["attention_mask"].bool() if edited.shape[1] == inputs["attention_mask"].shape[1] else slice(None)
    close(ablated[real], edited[real], address)
    assert not torch.equal(ablated, plain)
    assert torch.equal(logits(loaded, inputs), plain)


def close(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Equal within the dtype's tolerance, relative to the largest value."""
    bound = TOLERANCE[expected.dtype] * max(1.0, float(expected.abs().max()))
    distance = float((found.float() - expected.float()).abs().max())
    assert distance <= bound, f"{what}: {distance:.3g} apart, more than {bound:.3g}"
