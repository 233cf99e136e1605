"""What quantised and tensor-parallel models allow: control where it is exact, no edits of weights."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import sites_of
from neurodial.control.models.weights import why_weights_are_fixed
from tests.contracts.checks import check_operation_is_its_closed_form, compiled, operation, sample_sites
from tests.tiny import ARCHITECTURE_NAMES, inputs_for, load_tiny, tiny


@pytest.mark.parametrize("name", ARCHITECTURE_NAMES)
def test_plain_models_of_every_architecture_can_be_edited(name: str) -> None:
    assert why_weights_are_fixed(tiny(name)) is None
    assert sites_of(tiny(name)).refused == {}


@pytest.fixture(scope="module")
def dynamic() -> LoadedModel:
    """Llama with dynamically quantised weights: activations stay floating-point numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces a successor
        quantised: Any = torch.ao.quantization.quantize_dynamic(tiny("llama"), {nn.Linear}, dtype=torch.qint8)
    return LoadedModel.wrap(quantised, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("op", ["clamp", "amplify", "shift", "prune"])
def test_control_of_quantised_weights_is_exact(dynamic: LoadedModel, op: str) -> None:
    assert isinstance(dynamic.sites.info(Site("decoder", 0, "ffn")).module, torch.ao.nn.quantized.dynamic.Linear)
    for info in sample_sites(dynamic):
        check_operation_is_its_closed_form(dynamic, inputs_for(dynamic.model), info, *operation(dynamic, info, op))


def test_quantised_weights_are_not_edited(dynamic: LoadedModel) -> None:
    with pytest.raises(ModelError, match=r"pruning is not possible: .*is quantised \(torch.*dynamic.*Linear") as caught:
        dynamic.check_weights_can_change("pruning")
    assert "unquantised" in caught.value.hint


def test_a_quantised_checkpoint_says_so_in_its_config() -> None:
    loaded = load_tiny("llama")
    loaded.check_weights_can_change("baking")
    loaded.model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(ModelError, match=r"baking is not possible: the model is quantised \(bitsandbytes\)"):
        loaded.check_weights_can_change("baking")


class Packed(torch.Tensor):
    """Stands for a tensor subclass that holds packed weights, as torchao's."""


def with_weight(weight: Any) -> Any:
    model: Any = tiny("opt")
    model.model.decoder.layers[1].fc2.weight = nn.Parameter(weight, requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (torch.zeros(32, 48, dtype=torch.int8), r"layers\.1\.fc2 is quantised \(Linear, torch\.int8\)"),
        (torch.zeros(768, 1, dtype=torch.uint8), r"is quantised \(Linear, torch\.uint8\)"),
        (torch.zeros(32, 48).as_subclass(Packed), r"is quantised \(Packed\)"),
        (torch.zeros(32, 48, device="meta"), r"is not in memory \(offloaded\)"),
    ],
)
def test_weights_that_are_no_plain_matrix_are_not_edited(weight: torch.Tensor, reason: str) -> None:
    model = with_weight(weight)
    with pytest.raises(ModelError, match=reason):
        LoadedModel(model, None, "opt", "sha256:", sites_of(model)).check_weights_can_change("pruning")  # type: ignore[arg-type]


def test_activations_that_are_integers_are_refused() -> None:
    model: Any = tiny("llama")
    model.model.layers[1].mlp.down_proj = torch.ao.nn.quantized.Linear(48, 32)
    sites = sites_of(model)
    with pytest.raises(AddressError, match=r"decoder\.1\.ffn: its activations are quantised integers"):
        sites.info(Site("decoder", 1, "ffn"))
    assert Site("decoder", 0, "ffn") in sites.sites


@pytest.fixture
def one_process() -> Iterator[Any]:
    """A device mesh of this process alone."""
    store: Any = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_sharded_projections_are_refused_and_the_other_sites_are_exact(one_process: Any) -> None:
    model: Any = tiny("llama")
    parallelize_module(model.model.layers[1].mlp, one_process, {"down_proj": RowwiseParallel()})
    loaded = LoadedModel(model, None, "llama", "sha256:", sites_of(model))  # type: ignore[arg-type]
    with pytest.raises(AddressError, match=r"decoder\.1\.ffn: the model runs tensor-parallel"):
        compiled(loaded, {"neurons": "decoder.1.ffn[3]", "op": "prune"})
    assert set(loaded.sites.refused) == {Site("decoder", 1, "ffn")}
    with pytest.raises(ModelError, match=r"down_proj is distributed over devices"):
        loaded.check_weights_can_change("pruning")
    for info in loaded.sites.of("decoder", "resid"):
        check_operation_is_its_closed_form(loaded, inputs_for(model), info, *operation(loaded, info, "clamp"))


def test_a_model_on_several_processes_serves_what_every_process_has_whole() -> None:
    model: Any = tiny("llama")
    model._tp_size = 2
    sites = sites_of(model)
    assert {site.kind for site in sites.sites} == {"embed", "resid"}
    assert {site.kind for site in sites.refused} == {"attn", "ffn"}
    assert "tensor-parallel" in str(why_weights_are_fixed(model))
    model._tp_plan = {"model.layers.*.input_layernorm": "sequence_parallel"}
    assert not sites_of(model).sites
