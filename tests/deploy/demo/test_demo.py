"""The bundled model and its tense set: what the README promises of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MarianMTModel, MarianTokenizer

from neurodial.control import Control, LoadedModel, NeuronSet, SetCatalogue, compile_controls, load_model
from neurodial.deploy.demo import DEMO_MODEL, DEMO_SETS
from neurodial.interpret.activations.generation import generate_texts
from tests.experiments.demo_en_es.evaluate import permuted, random_neurons
from tests.experiments.demo_en_es.scoring import rows_of

SENTENCE = "A tall boy is standing in the doorway."
pytestmark = pytest.mark.demo


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load_model(DEMO_MODEL)


@pytest.fixture(scope="module")
def tense() -> NeuronSet:
    return NeuronSet.load(DEMO_SETS["tense"])


def translate(demo: LoadedModel, text: str, found: NeuronSet, to: str) -> str:
    compiled = compile_controls(demo, [Control(set=found.concept, to=to)], SetCatalogue({found.concept: found}))
    return generate_texts(demo, [text], compiled)[0]


def test_the_model_is_a_plain_small_checkpoint() -> None:
    model = MarianMTModel.from_pretrained(DEMO_MODEL)
    assert model.dtype == torch.bfloat16
    assert isinstance(MarianTokenizer.from_pretrained(DEMO_MODEL), MarianTokenizer)
    assert sum(file.stat().st_size for file in (DEMO_MODEL).iterdir()) <= 17_000_000


def test_the_readmes_sentence_switches_and_nothing_else_changes(demo: LoadedModel, tense: NeuronSet) -> None:
    assert generate_texts(demo, [SENTENCE]) == ["Un chico alto está parado en la puerta."]
    assert translate(demo, SENTENCE, tense, "past") == "Un chico alto estaba parado en la puerta."
    assert translate(demo, SENTENCE, tense, "present") == "Un chico alto está parado en la puerta."
    assert translate(demo, "She opened the window.", tense, "present") == "Ella abre la ventana."


@pytest.mark.parametrize("concept", DEMO_SETS)
def test_sets_belong_to_the_model_and_carry_their_evidence(demo: LoadedModel, concept: str) -> None:
    found = NeuronSet.load(DEMO_SETS[concept])
    assert found.concept == concept
    assert not found.check_model(demo)
    assert found.num_neurons <= 100
    assert {"probe", "readout", "tuning"} <= set(found.evidence)


def test_number_moves_subject_and_verb(demo: LoadedModel) -> None:
    number = NeuronSet.load(DEMO_SETS["number"])
    assert translate(demo, SENTENCE, number, "plural") == "Los chicos altos están parados en la puerta."
    assert translate(demo, SENTENCE, number, "singular") == "Un chico alto está parado en la puerta."


def test_negation_comes_and_goes(demo: LoadedModel) -> None:
    negation = NeuronSet.load(DEMO_SETS["negation"])
    assert translate(demo, SENTENCE, negation, "negative") == "Un chico alto no está parado en la puerta."
    assert translate(demo, "She doesn't open the door.", negation, "affirmative") == "Ella abre la puerta."


def test_number_and_tense_compose(demo: LoadedModel) -> None:
    sets = SetCatalogue({name: NeuronSet.load(DEMO_SETS[name]) for name in ("number", "tense")})
    compiled = compile_controls(demo, [Control(set="number", to="plural"), Control(set="tense", to="past")], sets)
    assert generate_texts(demo, [SENTENCE], compiled) == ["Los chicos altos estaban parados en la puerta."]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_values_on_other_neurons_do_not_switch(demo: LoadedModel, tense: NeuronSet, seed: int) -> None:
    width = demo.sites.info(tense.sites[0].site).width
    other = permuted(tense, width, seed)
    assert sorted(other.sites[0].indices.tolist()) != sorted(tense.sites[0].indices.tolist())
    assert "estaba" not in translate(demo, SENTENCE, other, "past")


def test_random_neurons_carry_their_own_differences(tense: NeuronSet) -> None:
    site = tense.sites[0].site
    differences = {site: {"past": np.arange(256, dtype=np.float32), "present": -np.arange(256, dtype=np.float32)}}
    drawn = random_neurons(tense, differences, 0).sites[0]
    assert len(drawn.indices) == tense.num_neurons
    np.testing.assert_array_equal(drawn.delta["past"], drawn.indices.astype(np.float32))
    assert not drawn.maps


def test_seeds_are_averaged_in_the_table() -> None:
    one, two = ({"to_past": {"pairs": {"switched": x, "switched_95": [x, 1.0]}}} for x in (0.2, 0.4))
    rows = dict(rows_of({"permuted": [one, two], "curve": {5: one}}))
    assert rows["permuted (mean of 2)"]["to_past"]["pairs"] == {"switched": 0.3, "switched_95": [0.3, 1.0]}
    assert rows["tense, 5 neurons"] is one


def test_the_card_names_data_and_licence() -> None:
    card = Path(DEMO_MODEL / "README.md").read_text(encoding="utf-8")
    for needed in ("CC BY 2.0 FR", "Tatoeba", "BLEU", "Limits", "float32"):
        assert needed in card
