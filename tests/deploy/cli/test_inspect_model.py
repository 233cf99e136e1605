"""`neurodial inspect` of a model: what it shows, what programs read, and what it says to wrong input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from neurodial.control.addresses import Site
from neurodial.control.models.lineage import FILE_NAME, KeptNeurons, Lineage
from tests.deploy.cli.runner import run
from tests.tiny import build, settings, tiny


def report(path: Path) -> Any:
    return json.loads(run("inspect", path, "--json").stdout)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[transformers.PreTrainedModel], Path]:
    def save(model: transformers.PreTrainedModel) -> Path:
        model.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


Save = Callable[[transformers.PreTrainedModel], Path]


def test_layers_that_are_alike_share_a_line(saved: Save) -> None:
    shown = " ".join(run("inspect", saved(tiny("mbart", encoder_layers=3)), width=200).stdout.split())
    assert "model (mbart, encoder-decoder) sha256:" in shown
    assert "672 neurons at 19 sites" in shown
    assert "encoder: 3 layers, 368 neurons" in shown and "decoder: 2 layers, 304 neurons" in shown
    assert "encoder.N.ffn 0-2 48 144" in shown
    assert "decoder.N.cross 0,1 32 2 × 16 64" in shown


def test_json_has_every_site(saved: Save) -> None:
    found = report(saved(tiny("qwen3")))
    assert found["kind"] == "model" and found["model_type"] == "qwen3" and found["in_table"]
    assert found["num_neurons"] == sum(site["width"] for site in found["sites"]) == 32 * 3 + 2 * 48 * 2
    assert found["by_stack"] == {"decoder": {"layers": 2, "num_neurons": 288, "num_sites": 7}}
    attn = {"heads": 4, "kv_heads": 2, "head_dim": 12, "module": "model.layers.1.self_attn.o_proj", "side": "input"}
    assert {"site": "decoder.1.attn", "width": 48} | attn in found["sites"]
    assert found["lineage"] is found["weights_fixed_because"] is None and found["refused"] == []


def test_a_model_outside_the_table_says_so(saved: Save) -> None:
    config = transformers.MixtralConfig(**settings("llama"), num_local_experts=4)
    folder = saved(build(transformers.MixtralForCausalLM, config))
    shown = run("inspect", folder, width=200).stdout
    assert "not in the table of architectures: resolved by its structure" in shown
    assert "decoder ffn in layers 0,1 is refused: the FFN of this layer is a mixture of experts" in " ".join(
        shown.split()
    )
    found = report(folder)
    assert not found["in_table"]
    assert [entry["site"] for entry in found["refused"]] == ["decoder.0.ffn", "decoder.1.ffn"]


def test_a_derived_model_shows_where_it_comes_from(saved: Save) -> None:
    folder = saved(tiny("llama"))
    kept = {Site("decoder", 0, "ffn"): KeptNeurons(50, tuple(range(48)))}
    lineage = Lineage.derive(
        None, fingerprint="sha256:" + "a" * 64, name="big", step={"kind": "pruned"}, weights_changed=False, kept=kept
    )
    lineage.save(folder)
    assert (folder / FILE_NAME).is_file()
    shown = run("inspect", folder, width=200).stdout
    assert "derived from big (sha256:aaaaaaaaaaaa): pruned" in shown
    assert "2 of its neurons were removed" in shown
    found = report(folder)["lineage"]
    assert found["neurons_removed"] == 2 and found["original"] == "big" and found["steps"][0]["kind"] == "pruned"


def test_wrong_input_is_one_line(saved: Save, tmp_path: Path) -> None:
    folder = saved(tiny("bert"))
    for target, expected in (
        (folder / "model.safetensors", f"for the model, name its folder: {folder}"),
        (folder / "config.json", f"for the model, name its folder: {folder}"),
        (tmp_path / "nothing", "there is no such folder"),
        (tmp_path, "there is no config.json in it"),
    ):
        result = run("inspect", target)
        assert result.exit_code == 2 and expected in result.stderr and "Traceback" not in result.stderr
        assert result.stdout == "" and len(result.stderr.splitlines()) <= 2


def test_an_architecture_that_is_not_clear_shows_how_to_add_a_row(saved: Save) -> None:
    folder = saved(build(transformers.AlbertForMaskedLM, transformers.AlbertConfig(**settings("bert"))))
    result = run("inspect", folder, width=200)
    assert result.exit_code == 2
    assert "'albert' is not in the table, and its structure is not clear" in result.stderr
    assert 'register_architecture("albert", ArchitectureRow(' in result.stderr
