from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, MarianMTModel

from neurodial.control.errors import ModelError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.models.sites import sites_of
from tests.tiny import load_tiny, tiny


def test_the_fingerprint_does_not_depend_on_dtype_or_path(tiny_marian: LoadedModel, tiny_marian_path: Path) -> None:
    assert load_model(tiny_marian_path, dtype="bfloat16").fingerprint == tiny_marian.fingerprint
    plain = MarianMTModel.from_pretrained(tiny_marian_path)
    assert LoadedModel.wrap(plain, tiny_marian.tokenizer).fingerprint == tiny_marian.fingerprint


def test_other_weights_have_another_fingerprint(
    tiny_marian: LoadedModel, tiny_marian_path: Path, tmp_path: Path
) -> None:
    other: Any = MarianMTModel.from_pretrained(tiny_marian_path)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(1.5)
    other.save_pretrained(tmp_path)
    tiny_marian.tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path).fingerprint != tiny_marian.fingerprint


def test_a_model_from_nowhere_takes_nothing_from_the_working_folder(
    tiny_marian_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_tiny("llama").fingerprint
    monkeypatch.chdir(tiny_marian_path)
    assert load_tiny("llama").fingerprint == expected
    assert load_tiny("llama").name == "LlamaForCausalLM"


@pytest.mark.parametrize("name", ["gemma3", "opt", "t5", "bert"])
def test_a_checkpoint_is_loaded_with_its_head(name: str, tiny_marian_path: Path, tmp_path: Path) -> None:
    model = tiny(name)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_marian_path).save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded.model) is type(model)
    assert loaded.sites.row == sites_of(model).row


@pytest.mark.parametrize("path", ["./nothing/here", "/no/such/folder", "a/b/c"])
def test_a_missing_folder_is_one_line_at_once(path: str) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        load_model(path)


def test_a_folder_without_a_model_and_a_wrong_dtype(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the model") as caught:
        load_model(tmp_path)
    assert "\n" not in caught.value.message
    with pytest.raises(ModelError, match="not a dtype"):
        load_model(tmp_path, dtype="int3")
