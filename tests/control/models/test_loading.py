import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, MarianMTModel

from neurodial.control.errors import ModelError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.models.places import check_place
from neurodial.control.models.positions import UNLIMITED, positions_of
from neurodial.control.models.sites import sites_of
from tests.tiny import load_tiny, tiny
from tests.word_tokenizer import tiny_with_text


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
    with pytest.raises(ModelError, match=r"there is no config\.json in it"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "marian", "vocab_size": "many"}')
    with pytest.raises(ModelError, match="cannot load the model") as caught:
        load_model(tmp_path)
    assert "\n" not in caught.value.message
    with pytest.raises(ModelError, match="not a dtype"):
        load_model(tmp_path, dtype="int3")


def test_a_truncated_checkpoint_and_a_device_that_is_not_there(tiny_marian_path: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_marian_path, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"model\.safetensors: truncated or damaged"):
        load_model(tmp_path / "cut")
    for device in ("cuda:99", "gpu"):
        with pytest.raises(ModelError, match=f"device {device}: cannot be used here") as caught:
            load_model(tiny_marian_path, device=device)
        assert "\n" not in caught.value.message


def test_names_that_are_no_folders_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub is asked for OWNER/NAME alone, once."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("nosuch", "tests/nosuch", "x" * 300, "~/model"):
        with pytest.raises(ModelError, match=r"there is no such folder$"):
            check_place(name)
    with pytest.raises(ModelError, match="the hub cannot be asked"):
        check_place("nobody/nothing-of-this-name")
    with pytest.raises(ModelError, match="a file, not the folder of a model"):
        check_place(__file__)


@pytest.mark.parametrize(("name", "most"), [("roberta", 63), ("bert", 64), ("t5", UNLIMITED), ("bloom", UNLIMITED)])
def test_the_tokens_that_fit(name: str, most: int) -> None:
    """RoBERTa's table begins behind the padding's number (0 here); a tokenizer may say 1e30."""
    loaded = tiny_with_text(name)
    loaded.tokenizer.model_max_length = int(1e30)
    assert positions_of(loaded.model) == loaded.max_length == most
    text = "w5 " * 600
    ids = loaded.tokenizer(text, truncation=True, max_length=loaded.max_length, return_tensors="pt")["input_ids"]
    if name == "roberta":
        assert ids.shape == (1, most)
        loaded.model(input_ids=ids)
        with pytest.raises((IndexError, RuntimeError)):
            loaded.model(input_ids=torch.cat([ids, ids[:, :1]], dim=1))
