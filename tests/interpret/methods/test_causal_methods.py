"""Methods that change neurons and watch a score: their contract, exactness and the oracles of each."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone

from neurodial.control.addresses import Site
from neurodial.control.controls import parse_controls
from neurodial.control.errors import AddressError, BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from neurodial.interpret.activations.losses import IGNORED, TokenRow, loss_batch
from neurodial.interpret.methods.causal.ablation import Ablation, group_effects
from neurodial.interpret.methods.causal.activation_patching import ActivationPatching
from neurodial.interpret.methods.causal.attribution_patching import AttributionPatching
from neurodial.interpret.methods.causal.gradient_activation import GradientActivation
from neurodial.interpret.methods.causal.knowledge_attribution import KnowledgeAttribution, fact_effects, refine
from neurodial.interpret.methods.causal.layer_conductance import LayerConductance, embeddings_between
from neurodial.interpret.methods.contracts import CausalMethod, Properties
from neurodial.interpret.methods.registry import causal_methods
from neurodial.interpret.tasks.interventions import Unit, effects, plain_scores, scaled, values_at
from neurodial.interpret.tasks.tasks import Batch, Prompt, forward, next_tokens, token_batches
from tests.tiny import inputs_for, tiny

CAUSAL = sorted(causal_methods())
FFN = [Site.parse("decoder.0.ffn"), Site.parse("decoder.1.ffn")]
WRITER, ANSWER, FOIL = 7, 20, 30


def prompts(seed: int = 0, count: int = 6) -> list[Prompt]:
    draw = np.random.default_rng(seed)
    made = []
    for n in range(count):
        ids = draw.integers(2, 30, size=3 + n % 3).tolist()
        made.append(Prompt(ids, len(ids) - 1, ANSWER, FOIL))
    return made


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    """A random model in which one neuron of the last FFN writes the answer, and is the only one that knows it."""
    model: Any = tiny("llama", initializer_range=0.05)
    with torch.no_grad():
        head = model.lm_head.weight
        down = model.model.layers[1].mlp.down_proj.weight
        direction = head[ANSWER] - head[FOIL]
        down -= torch.outer(direction, direction @ down) / direction.square().sum()
        down[:, WRITER] = 0.3 * direction
        model.model.layers[1].mlp.gate_proj.weight[WRITER] = 0.0
        model.model.layers[1].mlp.up_proj.weight[WRITER] = 0.0
        norm = model.model.layers[1].post_attention_layernorm
        norm.weight[0] = 1.0
        model.model.embed_tokens.weight[:, 0] = 1.0  # the prompts' tokens have it, the others do not
        model.model.embed_tokens.weight[30:, 0] = -1.0
        model.model.layers[1].mlp.gate_proj.weight[WRITER, 0] = 0.5
        model.model.layers[1].mlp.up_proj.weight[WRITER, 0] = 0.5
    return LoadedModel.wrap(model, None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def task() -> list[Batch]:
    return token_batches(prompts(), pad=0, batch=4)


def corrupted(task: list[Batch]) -> list[Batch]:
    draw = torch.Generator().manual_seed(9)
    twins = []
    for batch in task:
        ids = batch.inputs["input_ids"]
        other = torch.randint(2, 58, ids.shape, generator=draw)
        twins.append(
            Batch({**batch.inputs, "input_ids": torch.where(batch.inputs["attention_mask"] == 1, other, ids)}, ids)
        )
    return twins


def make(slug: str, task: list[Batch]) -> CausalMethod:
    method = causal_methods()[slug]()
    return method.set_params(corrupted=corrupted(task)) if "corrupted" in method.get_params() else method


@pytest.mark.parametrize("slug", CAUSAL)
def test_the_contract_of_every_causal_method(slug: str, llama: LoadedModel, task: list[Batch]) -> None:
    method = make(slug, task)
    assert not [name for name in vars(method) if name.endswith("_")]
    assert isinstance(method.properties, Properties)
    assert method.fit(llama, task, FFN) is method
    assert method.sites_ == tuple(FFN)
    assert method.scores_.shape == (96,)
    assert sorted(method.ranking_.tolist()) == list(range(96))
    assert [len(part) for part in method.by_site().values()] == [48, 48]
    again = type(method)(**method.get_params()).fit(llama, task, FFN)
    assert (again.scores_ == method.scores_).all()
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in llama.model.modules())
    with pytest.raises(BadInput, match="task with examples"):
        make(slug, task).fit(llama, [], FFN)
    with pytest.raises(AddressError):
        make(slug, task).fit(llama, task, [Site.parse("encoder.0.ffn")])


@pytest.mark.parametrize("slug", sorted({*CAUSAL} - {"activation-patching", "attribution-patching"}))
def test_the_planted_neuron_comes_first(slug: str, llama: LoadedModel, task: list[Batch]) -> None:
    method = make(slug, task).fit(llama, task, FFN)
    assert method.top(1) == [(FFN[1], WRITER)]
    assert method.scores_[48 + WRITER] > 0
    rest = np.delete(np.abs(method.scores_), 48 + WRITER)
    assert method.scores_[48 + WRITER] > 5 * rest.max()


def test_a_score_that_the_neuron_does_not_carry_finds_nothing(llama: LoadedModel) -> None:
    swapped = [Prompt(p.ids, p.position, 40, 50) for p in prompts()]
    other = Ablation().fit(llama, token_batches(swapped, pad=0), FFN)
    true = Ablation().fit(llama, token_batches(prompts(), pad=0), FFN)
    assert np.abs(other.scores_).max() < 0.2 * true.scores_.max()


def test_ablation_equals_a_controlled_run_neuron_by_neuron(llama: LoadedModel, task: list[Batch]) -> None:
    found = Ablation(max_rows=10).fit(llama, task, FFN)
    for site, neuron in ((FFN[0], 3), (FFN[0], 47), (FFN[1], WRITER), (FFN[1], 0)):
        compiled = compile_controls(llama, parse_controls([{"neurons": f"{site}[{neuron}]", "op": "prune"}]))
        fall = 0.0
        for batch in task:
            with torch.inference_mode(), controlled(llama, [compiled] * batch.rows):
                fall += float((plain_scores(llama, batch)).sum())
        base = sum(float(plain_scores(llama, batch).sum()) for batch in task)
        expected = (base - fall) / sum(batch.rows for batch in task)
        assert found.by_site()[site][neuron] == pytest.approx(expected, abs=1e-5)


def translations(loaded: LoadedModel, sources: list[str], targets: list[str]) -> list[Batch]:
    """The mean log-probability of each target's tokens given its source, in an encoder–decoder model."""
    encoded = loaded.tokenizer(sources)["input_ids"], loaded.tokenizer(text_target=targets)["input_ids"]
    rows = [TokenRow(tuple(source), tuple(target)) for source, target in zip(*encoded, strict=True)]
    made = loss_batch(loaded, rows, torch.Generator())
    return [Batch(made.inputs, made.labels)]


def test_ablation_in_both_stacks_of_a_translation_model(loaded: LoadedModel) -> None:
    task = translations(loaded, ["She opens the door.", "He saw the tall house."], ["the book.", "a house opened."])
    sites = [Site.parse(s) for s in ("encoder.1.ffn", "decoder.0.cross", "decoder.1.resid")]
    found = Ablation().fit(loaded, task, sites)
    model: Any = loaded.model
    before = [plain_scores(loaded, batch) for batch in task]
    weight = model.model.encoder.layers[1].fc2.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[:, 5] = 0
        fall = [b - plain_scores(loaded, batch) for b, batch in zip(before, task, strict=True)]
        weight.copy_(kept)
    assert found.by_site()[sites[0]][5] == pytest.approx(float(torch.cat(fall).mean()), abs=1e-5)


def test_groups_across_sites_and_means(llama: LoadedModel, task: list[Batch]) -> None:
    groups: list[Unit] = [{FFN[0]: [1, 2], FFN[1]: [WRITER]}, {FFN[1]: [WRITER]}, {FFN[0]: range(48)}]
    joint, alone, layer = group_effects(llama, task, groups)
    assert joint < 0 and alone < 0
    assert abs(joint - alone) < 0.2 * abs(alone)
    assert abs(layer) < 0.2 * abs(alone)
    to_mean = group_effects(llama, task, groups, to="mean")
    assert abs(to_mean[1]) < abs(alone)


def test_screening_measures_the_best_and_estimates_the_rest(llama: LoadedModel, task: list[Batch]) -> None:
    everything, screened = Ablation().fit(llama, task, FFN), Ablation(screened=0.1).fit(llama, task, FFN)
    assert screened.exact_.sum() == 10
    assert screened.scores_[screened.exact_] == pytest.approx(everything.scores_[screened.exact_], abs=1e-6)
    assert screened.ranking_[0] == everything.ranking_[0]
    assert screened.agreement_ is not None and screened.agreement_ > 0.9
    with pytest.raises(BadInput, match="screened"):
        Ablation(screened=0).fit(llama, task, FFN)


def test_gradient_times_activation_is_the_slope_of_scaling(llama: LoadedModel, task: list[Batch]) -> None:
    estimate = GradientActivation().fit(llama, task, FFN).by_site()[FFN[0]]
    step = 1e-2
    for neuron in (0, 9, 33):
        change = sum(float(effects(llama, b, [{FFN[0]: [neuron]}], scaled(1 + step)).sum()) for b in task)
        assert estimate[neuron] == pytest.approx(change / 6 / step, rel=0.1, abs=1e-4)
    sizes = GradientActivation("absolute").fit(llama, task, FFN).scores_
    assert (sizes >= np.abs(GradientActivation().fit(llama, task, FFN).scores_) - 1e-9).all()


def test_patching_restores_what_the_clean_run_had(llama: LoadedModel, task: list[Batch]) -> None:
    twins = corrupted(task)
    site = Site.parse("decoder.0.resid")
    truth = ActivationPatching(twins).fit(llama, task, [site])
    estimate = AttributionPatching(twins).fit(llama, task, [site])
    assert np.corrcoef(truth.scores_, estimate.scores_)[0, 1] > 0.7
    clean = torch.cat([plain_scores(llama, batch) for batch in task])
    dirty = [plain_scores(llama, Batch(c.inputs, a.labels, a.foils)) for a, c in zip(task, twins, strict=True)]
    assert truth.gap_ == pytest.approx(float((clean - torch.cat(dirty)).mean()), abs=1e-6)
    same = ActivationPatching(task).fit(llama, task, [site])
    assert np.abs(same.scores_).max() < 1e-6
    with pytest.raises(BadInput, match="shapes"):
        AttributionPatching(twins[:1]).fit(llama, task, [site])


def test_conductance_adds_up_to_the_scores_difference(llama: LoadedModel, task: list[Batch]) -> None:
    found = LayerConductance(steps=60).fit(llama, task, [Site.parse("decoder.1.resid")])
    real = torch.cat([plain_scores(llama, b) for b in task]).mean()
    with embeddings_between(llama, 0.0):
        empty = torch.cat([plain_scores(llama, b) for b in task]).mean()
    assert found.scores_.sum() == pytest.approx(float(real - empty), rel=0.05)


@pytest.mark.parametrize("name", ["marian", "bart", "mbart", "pegasus", "m2m_100", "t5", "t5-gated", "gpt2", "bert"])
def test_conductance_follows_the_embedding_that_a_model_calls(name: str) -> None:
    """All of an encoder's influence passes its last block; several architectures never call their shared embedding."""
    loaded = LoadedModel.wrap(tiny(name), None)  # type: ignore[arg-type]
    inputs = inputs_for(loaded.model)
    labels = torch.full_like(inputs.get("decoder_input_ids", inputs["input_ids"]), IGNORED)
    labels[:, -1] = ANSWER
    asked = [Batch(inputs, labels)]
    site = [s for s in loaded.sites.sites if s.kind == "resid" and s.stack == loaded.sites.stacks[0]][-1]
    found = LayerConductance(steps=120).fit(loaded, asked, [site])
    with embeddings_between(loaded, 0.0):
        empty = plain_scores(loaded, asked[0]).mean()
    difference = float(plain_scores(loaded, asked[0]).mean() - empty)
    assert abs(difference) > 1e-3
    assert found.scores_.sum() == pytest.approx(difference, rel=0.1, abs=1e-3)


def test_knowledge_attributions_are_complete(llama: LoadedModel) -> None:
    asked = token_batches([Prompt(p.ids, p.position, ANSWER) for p in prompts(count=2)], pad=0)
    found = KnowledgeAttribution(steps=40).fit(llama, asked, [FFN[1]])
    (batch,) = asked
    nothing = effects(llama, batch, [{FFN[1]: range(48)}], measure="probability")[0]
    assert found.attributions_.sum(axis=1) == pytest.approx((-nothing).numpy(), rel=0.02)
    assert plain_scores(llama, batch, "probability").min() > 0


def test_a_facts_neurons_are_those_that_its_prompts_share(llama: LoadedModel) -> None:
    asked = token_batches([Prompt(p.ids, p.position, ANSWER) for p in prompts()], pad=0)
    found = KnowledgeAttribution(facts=[0, 0, 0, 1, 1, 1]).fit(llama, asked, FFN)
    assert all(48 + WRITER in neurons for neurons in found.neurons_.values())
    changed = fact_effects(llama, asked, {FFN[1]: [WRITER]})
    assert changed["suppress"] < -0.2 and changed["enhance"] > 0.2
    assert found.units(llama, 0)[FFN[1]][0] == WRITER
    with pytest.raises(BadInput, match="facts are given"):
        KnowledgeAttribution(facts=[0]).fit(llama, asked, FFN)


def test_refinement_keeps_what_enough_prompts_share_and_moves_the_share() -> None:
    attributions = np.zeros((4, 30))
    attributions[:, [0, 1, 2]] = 1.0
    attributions[:2, 3:25] = 0.9
    neurons, shared = refine(attributions, np.zeros(4), 0.2, 0.7)
    assert neurons[0].tolist() == [0, 1, 2]
    assert shared == 0.7
    neurons, shared = refine(attributions, np.zeros(4), 0.2, 0.4, least=1)
    assert shared == pytest.approx(0.55)
    assert neurons[0].tolist() == [0, 1, 2]
    neurons, shared = refine(attributions, np.zeros(4), 0.2, 0.4)  # in three prompts at least
    assert (neurons[0].tolist(), shared) == ([0, 1, 2], 0.4)
    assert refine(attributions[:2], np.zeros(2), 0.2, 0.7)[0][0].tolist() == []


def test_tasks_from_text_check_what_they_are_given(loaded: LoadedModel) -> None:
    with pytest.raises(BadInput, match="next tokens are asked of"):
        next_tokens(loaded, ["a"], ["b"])
    (batch,) = translations(loaded, ["She opens the door."], ["the book."])
    model: Any = loaded.model
    with torch.inference_mode():
        loss = model(**{k: batch.inputs[k] for k in ("input_ids", "attention_mask")}, labels=batch.labels).loss
    assert -float(plain_scores(loaded, batch)[0]) == pytest.approx(float(loss), abs=1e-5)
    assert forward(loaded, batch).shape[:2] == batch.labels.shape
    assert values_at(loaded, batch, [Site.parse("decoder.0.ffn")])[Site.parse("decoder.0.ffn")].dim() == 3


def test_methods_can_be_cloned() -> None:
    for method in (Ablation(screened=0.5), GradientActivation("absolute"), LayerConductance(3)):
        assert clone(method).get_params() == method.get_params()
