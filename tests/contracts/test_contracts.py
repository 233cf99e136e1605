"""The contracts of every architecture on one sample each; `make contracts` runs the full matrix."""

import pytest

from tests.contracts.checks import (
    OPERATIONS,
    check_operation_is_its_closed_form,
    check_recorded_is_consumed,
    check_writing_back_changes_nothing,
    check_zeroing_equals_zeroed_weights,
    loaded_model,
    operation,
    sample_sites,
)
from tests.tiny import ARCHITECTURE_NAMES, inputs_for

EVERY_OPERATION = (*OPERATIONS, "map")
each_architecture = pytest.mark.parametrize("name", ARCHITECTURE_NAMES)


@each_architecture
def test_the_recorded_activation_is_what_the_next_module_consumes(name: str) -> None:
    loaded = loaded_model(name)
    check_recorded_is_consumed(loaded, inputs_for(loaded.model))


@each_architecture
def test_writing_back_what_was_read_changes_nothing(name: str) -> None:
    loaded = loaded_model(name)
    check_writing_back_changes_nothing(loaded, inputs_for(loaded.model))


@each_architecture
@pytest.mark.parametrize("op", EVERY_OPERATION)
def test_an_operation_is_its_closed_form(name: str, op: str) -> None:
    loaded = loaded_model(name)
    for info in sample_sites(loaded)[EVERY_OPERATION.index(op) :: len(EVERY_OPERATION)]:  # the matrix has all of them
        check_operation_is_its_closed_form(loaded, inputs_for(loaded.model), info, *operation(loaded, info, op))


@each_architecture
def test_zeroing_a_neuron_equals_zeroing_its_outgoing_weights(name: str) -> None:
    loaded = loaded_model(name)
    for info in sample_sites(loaded):
        if info.site.kind in ("ffn", "attn", "cross"):
            for address in (f"{info.site}[5]", *([f"{info.site}.head[1]"] if info.head_dim else [])):
                check_zeroing_equals_zeroed_weights(loaded, inputs_for(loaded.model), info, address)
