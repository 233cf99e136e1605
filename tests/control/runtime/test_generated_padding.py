"""Padding that a model generates: behind an end token it is none of the row's, where nothing ends a row it is."""

from typing import Any

import pytest
import torch

from neurodial.control.controls import parse_controls
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from tests.tiny import EOS, PAD, tiny


@pytest.mark.parametrize(("end", "positions"), [(None, 5), (EOS, 3)])
def test_padding_counts_where_nothing_ends_a_row(end: int | None, positions: int) -> None:
    loaded = LoadedModel.wrap(tiny("llama"), None)  # type: ignore[arg-type]
    model: Any = loaded.model
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = end, PAD
    raw = [{"neurons": "decoder.1.resid[0-9]", "op": "clamp", "value": 3.0}]
    plan = compile_controls(loaded, parse_controls(raw))
    with torch.no_grad(), controlled(loaded, [plan]) as applied:
        done = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True)
        for _ in range(2):
            done = model(input_ids=torch.tensor([[PAD]]), past_key_values=done.past_key_values)
    report = applied.report(0)
    assert report is not None
    assert report["controls"][0]["sites"]["decoder.1.resid"]["positions"] == positions
