"""The output projection in blocks is the output projection."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from neurodial.service.engine.model.forward.lm_head import block_lm_head, project

TOKENS = 5000


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 8, 9, 33, 64, 65])
def test_it_is_the_same_product(rows: int, bias: bool) -> None:
    """For one row, few and many, one position each or several."""
    torch.manual_seed(rows)
    head = nn.Linear(24, TOKENS, bias=bias)
    with torch.inference_mode():
        for states in (torch.randn(rows, 1, 24), torch.randn(rows, 24), torch.randn(1, rows, 24)):
            found = project(head, states)
            assert found.is_contiguous()
            torch.testing.assert_close(found, nn.functional.linear(states, head.weight, head.bias))


def test_a_model_computes_its_logits_so() -> None:
    """Hooks on the projection go on to run, copies stand on their own, and gradients are those of a linear layer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=TOKENS, **sizes)).eval()  # type: ignore[arg-type]
    ids, seen = torch.arange(12)[:, None], []
    with torch.no_grad():
        plain = model(ids).logits
        block_lm_head(model)
        model.lm_head.register_forward_hook(lambda *_: seen.append(1))
        torch.testing.assert_close(model(ids).logits, plain)
        twin = copy.deepcopy(model)
        model.lm_head.weight.zero_()
        torch.testing.assert_close(twin(ids).logits, plain)
        assert not model(ids).logits.any()
    assert len(seen) == 3
    twin(ids).logits.sum().backward()
    assert twin.lm_head.weight.grad is not None
    small = LlamaForCausalLM(LlamaConfig(vocab_size=100, **sizes))  # type: ignore[arg-type]
    block_lm_head(small)
    assert "forward" not in vars(small.lm_head)
