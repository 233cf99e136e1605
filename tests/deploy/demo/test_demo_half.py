"""The demo model without half of its FFN neurons, beside the original: what the documentation promises of them."""

import pytest
from transformers import MarianMTModel

from neurodial.control import Control, LoadedModel, SetCatalogue, compile_controls, load_model
from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.errors import AddressError, FingerprintError
from neurodial.control.surgery.pruning.cost import cost
from neurodial.deploy.configuration.config import demo_config
from neurodial.deploy.demo import DEMO_CALIBRATION, DEMO_HALF, DEMO_MODEL, DEMO_SETS
from neurodial.interpret.activations.generation import generate_texts

SENTENCE = "A tall boy is standing in the doorway."
SITE = Site.parse("decoder.2.ffn")
pytestmark = pytest.mark.demo


@pytest.fixture(scope="module")
def original() -> LoadedModel:
    return load_model(DEMO_MODEL)


@pytest.fixture(scope="module")
def half() -> LoadedModel:
    return load_model(DEMO_HALF)


def test_it_is_a_plain_small_checkpoint_with_a_lineage(original: LoadedModel, half: LoadedModel) -> None:
    assert MarianMTModel.from_pretrained(DEMO_HALF).config.decoder_ffn_dim == 640
    assert sum(file.stat().st_size for file in DEMO_HALF.iterdir()) <= 15_000_000
    assert cost(half).ffn_flops_per_token / cost(original).ffn_flops_per_token == pytest.approx(0.5, abs=0.01)
    assert half.lineage is not None
    assert [step["kind"] for step in half.lineage.steps] == ["pruned", "recovered"]
    assert half.lineage.ancestors[-1] == original.fingerprint


def test_the_application_serves_both() -> None:
    models = {model.id: model for model in demo_config().models}
    assert models["en-es-half"].sets == models["en-es"].sets
    assert models["en-es-half"].allow_changed_weights


def test_original_addresses_work_on_both(original: LoadedModel, half: LoadedModel) -> None:
    assert half.lineage is not None
    kept = half.lineage.kept[SITE].indices
    removed = next(n for n in range(1024) if n not in kept)
    for loaded in (original, half):
        control = Control(neurons=f"{SITE}[{kept[7]}]", op="clamp", value=40.0)
        compiled = compile_controls(loaded, [control])
        assert compiled.num_neurons == 1
        assert generate_texts(loaded, [SENTENCE], compiled) != generate_texts(loaded, [SENTENCE])
    with pytest.raises(AddressError, match="removed"):
        compile_controls(half, [Control(neurons=f"{SITE}[{removed}]", op="prune")])


@pytest.mark.parametrize("name", sorted(DEMO_SETS))
def test_sets_of_the_original_are_inherited(half: LoadedModel, name: str) -> None:
    catalogue = SetCatalogue.from_files(DEMO_SETS)
    control = Control(set=name, to=catalogue.get(name).labels[0])
    calibration = Calibration.load(DEMO_CALIBRATION)
    compiled = compile_controls(half, [control], catalogue, allow_changed_weights=True, calibration=calibration)
    assert compiled.controls[0].facts["inherited"]
    with pytest.raises(FingerprintError, match="weights were changed"):
        compile_controls(half, [control], catalogue)


def test_the_readmes_sentence_switches_on_both(original: LoadedModel, half: LoadedModel) -> None:
    catalogue = SetCatalogue.from_files(DEMO_SETS)
    for loaded in (original, half):
        control = Control(set="tense", to="past")
        compiled = compile_controls(loaded, [control], catalogue, allow_changed_weights=True)
        assert "está" in generate_texts(loaded, [SENTENCE])[0]
        assert "estaba" in generate_texts(loaded, [SENTENCE], compiled)[0]
