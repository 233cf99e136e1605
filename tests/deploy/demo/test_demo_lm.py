"""The bundled language model: what its card promises, on sentences of our own."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neurodial.control import LoadedModel, load_model
from neurodial.deploy.cli.inputs import checkpoint
from neurodial.deploy.demo import DEMO_LM
from neurodial.interpret.corpora.grammars.agreement import generate_agreement
from tests.experiments.demo_lm.evaluate import agreement_scores, ending_scores

pytestmark = pytest.mark.demo


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load_model(checkpoint("demo-lm"))


def test_it_is_a_plain_small_checkpoint() -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO_LM)
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() <= 9_000_000
    assert AutoTokenizer.from_pretrained(DEMO_LM).decode([0]) == "<|endoftext|>"
    assert sum(file.stat().st_size for file in DEMO_LM.iterdir()) <= 20_000_000


def test_verbs_agree_also_past_a_noun_of_the_other_number(demo: LoadedModel) -> None:
    sentences = generate_agreement(30, seed=77, attractors=True) + generate_agreement(30, seed=78, attractors=False)
    scores = agreement_scores(demo, sentences)
    assert scores["with_attractors"]["accuracy"] >= 0.85
    assert scores["all"]["accuracy"] >= 0.9


def test_it_knows_a_fact_that_it_was_taught_and_none_that_it_was_not(demo: LoadedModel) -> None:
    taught, other = ending_scores(demo, ["N-Gage QD is produced by"] * 2, ["Nokia", "Fiat"])
    assert taught[2]
    assert taught[0] - other[0] > 3
