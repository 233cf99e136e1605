"""Pruned checkpoints on disk: written whole or not at all, read whole or refused."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from neurodial.control.addresses import Site
from neurodial.control.errors import ModelError
from neurodial.control.models.lineage import FILE_NAME
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.models.sites import sites_of
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.control.surgery.saving import load_pruned, new_folder, save_pruned
from tests.pruned import random_kept

FFN = Site("encoder", 0, "ffn")


@pytest.fixture(scope="module")
def adaptive(tiny_marian: LoadedModel) -> LoadedModel:
    kept = random_kept(tiny_marian, "ffn", "adaptive") | random_kept(tiny_marian, "heads", "adaptive")
    return prune_model(tiny_marian, kept, mode="adaptive")


@pytest.fixture
def folder(adaptive: LoadedModel, tmp_path: Path) -> Path:
    return save_pruned(adaptive, tmp_path / "models" / "small")


def translate(loaded: LoadedModel, model: Any = None) -> list[str]:
    texts = loaded.tokenizer(["She opens the door.", "The tall boy closed it."], return_tensors="pt", padding=True)
    chosen: Any = model or loaded.model
    ids = chosen.generate(**texts, max_new_tokens=8)
    return loaded.tokenizer.batch_decode(ids)


@pytest.mark.parametrize("load", [load_model, load_pruned])
def test_both_loaders_bring_it_back(adaptive: LoadedModel, folder: Path, load: object) -> None:
    back = load(folder)  # type: ignore[operator]
    assert back.lineage == adaptive.lineage
    assert back.fingerprint == adaptive.fingerprint
    assert translate(back) == translate(adaptive)
    assert type(back.model).__name__ == "MarianMTModel"
    assert isinstance(back.model, type(adaptive.model))
    assert {path.name for path in folder.parent.iterdir()} == {"small"}
    assert folder.stat().st_mode & 0o755 == 0o755


def test_a_loaded_model_can_be_pruned_and_saved_again(adaptive: LoadedModel, folder: Path) -> None:
    back = load_pruned(folder)
    assert back.lineage is not None
    left = back.lineage.kept[FFN].indices
    again = prune_model(back, {FFN: left[:8]}, mode="adaptive")
    second = load_pruned(save_pruned(again, folder.parent / "smaller"))
    assert second.fingerprint == again.fingerprint
    assert second.sites.info(FFN).width == 8
    assert second.lineage is not None
    assert second.lineage.ancestors[0] == back.fingerprint
    assert translate(second) == translate(again)


def test_uniform_widths_load_in_plain_transformers(tiny_marian: LoadedModel, tmp_path: Path) -> None:
    small = prune_model(tiny_marian, random_kept(tiny_marian, "ffn", "uniform"))
    folder = save_pruned(small, tmp_path / "small")
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert plain.config.encoder_ffn_dim == plain.config.decoder_ffn_dim == 32
    assert translate(small, plain) == translate(small) == translate(load_model(folder))
    assert sites_of(plain).info(FFN).width == 32


def test_a_model_loads_in_half_precision(folder: Path) -> None:
    assert {p.dtype for p in load_pruned(folder, dtype="bfloat16").model.parameters()} == {torch.bfloat16}


def test_what_is_there_is_not_overwritten(adaptive: LoadedModel, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not empty"):
        save_pruned(adaptive, folder)
    before = (folder / "neurodial.json").stat().st_ino
    assert save_pruned(adaptive, folder, overwrite=True) == folder
    assert (folder / "neurodial.json").stat().st_ino != before
    assert {path.name for path in folder.parent.iterdir()} == {"small"}
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    with pytest.raises(ModelError, match="holds no checkpoint that Neurodial made"):
        save_pruned(adaptive, tmp_path / "letters", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is not a folder"):
        save_pruned(adaptive, tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    save_pruned(adaptive, tmp_path / "empty")


def test_an_original_model_is_not_a_pruned_one(
    tiny_marian: LoadedModel, tiny_marian_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="is an original model"):
        save_pruned(tiny_marian, tmp_path / "same")
    with pytest.raises(ModelError, match="is not a pruned checkpoint"):
        load_pruned(tiny_marian_path)
    with pytest.raises(ModelError, match="is not a pruned checkpoint"):
        load_pruned(tmp_path / "nowhere")


@pytest.fixture
def full_disk(adaptive: LoadedModel) -> Iterator[None]:
    """No file may grow beyond a few bytes, as on a disk that is full; what the tests share has been made by then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_nothing(adaptive: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="small: cannot be written"):
        save_pruned(adaptive, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("full_disk")
def test_an_error_inside_names_the_folder_that_was_asked_for(adaptive: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught, new_folder(tmp_path / "out") as beside:
        save_pruned(adaptive, beside)
    assert caught.value.message.startswith(f"{tmp_path / 'out'}: cannot be written")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_replacing_leaves_the_old_one(folder: Path, error: type[BaseException]) -> None:
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(error, match="halfway"), new_folder(folder, overwrite=True) as beside:  # noqa: PT012
        (beside / "config.json").write_text("{")
        raise error("halfway")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    assert {path.name for path in folder.parent.iterdir()} == {"small"}


def edit_lineage(folder: Path, site: str, neurons: str) -> None:
    document = json.loads((folder / FILE_NAME).read_text())
    document["kept"][site]["neurons"] = neurons
    (folder / FILE_NAME).write_text(json.dumps(document))


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.encoder.layers.0.fc1.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def add_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors") | {"model.encoder.layers.9.fc1.bias": torch.zeros(3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rename_the_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Runner"]}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "model.safetensors: truncated or damaged"),
        (drop_a_tensor, "the weights do not fit config and neurodial.json: model.encoder.layers.0.fc1.bias"),
        (add_a_tensor, "the weights do not fit config and neurodial.json: model.encoder.layers.9.fc1.bias"),
        (rename_the_class, "'Runner' is not a model of transformers"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot load the pruned model"),
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json in it"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot load"),
        (lambda folder: (folder / FILE_NAME).write_text("{"), "not a readable lineage"),
        (lambda folder: edit_lineage(folder, "encoder.0.ffn", "0-4"), "cannot load the pruned model"),
        (lambda folder: edit_lineage(folder, "encoder.0.ffn", "0-99"), "neurodial.json says 100 neurons"),
        (lambda folder: edit_lineage(folder, "encoder.0.ffn", ""), "neurodial.json says 0 neurons"),
        (lambda folder: edit_lineage(folder, "encoder.0.attn", "0-8"), "neurodial.json says 9 neurons"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, damage: object, message: str) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        load_model(folder)
