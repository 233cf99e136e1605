from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration, SiteStatistics
from neurodial.control.errors import BadInput, CorpusError, ModelError
from neurodial.control.models.capture import capture
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.calibration import calibrate_model
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.rankings.salience import MEASURES, out_squares, salience
from neurodial.interpret.studies.pruning.sweep import Way, prune_to, sites_to_prune
from tests.tiny import inputs_for
from tests.word_tokenizer import MASK, sentences, tiny_with_text

FAMILIES = ("gpt2", "llama", "phi3", "falcon-per-head", "bert", "marian", "t5-gated")
FFN = {"encoder": Site("encoder", 0, "ffn"), "decoder": Site("decoder", 0, "ffn")}
DEAD = (3, 11, 30)


def corpus(*, parallel: bool = False, count: int = 12) -> Corpus:
    others = sentences(count, seed=5)
    return Corpus.of(
        "random words",
        [
            Example(i, Sentence.of(text), target=Sentence.of(others[i]) if parallel else None)
            for i, text in enumerate(sentences(count))
        ],
    )


def scale_outgoing(loaded: LoadedModel, site: Site, neurons: Any, factor: float) -> None:
    """Multiplies what some neurons of a site add to the layer."""
    module = loaded.sites.info(site).module
    with torch.no_grad():
        weight: Any = module.weight
        if isinstance(module, nn.Linear):
            weight[:, list(neurons)] *= factor
        else:
            weight[list(neurons)] *= factor


def scored(loaded: LoadedModel, by: str, site: Site, **options: Any) -> np.ndarray:
    parallel = loaded.family == "encoder-decoder"
    return salience(loaded, by, [site], corpus=corpus(parallel=parallel), **options)[site]


@pytest.mark.parametrize("by", [m for m in MEASURES if m != "random"])
@pytest.mark.parametrize("name", FAMILIES)
def test_neurons_and_heads_without_outgoing_weights_come_last(name: str, by: str) -> None:
    loaded = tiny_with_text(name)
    stack = loaded.sites.stacks[-1]
    scale_outgoing(loaded, FFN[stack], DEAD, 0.0)
    scores = scored(loaded, by, FFN[stack])
    assert scores.shape == (loaded.sites.info(FFN[stack]).width,)
    assert set(np.argsort(scores)[: len(DEAD)].tolist()) == set(DEAD)
    assert (np.delete(scores, DEAD) > 0).all()
    attn = Site(stack, 1, "attn")
    size = loaded.sites.info(attn).head_dim or 0
    scale_outgoing(loaded, attn, range(size, 2 * size), 0.0)
    heads = scored(loaded, by, attn)
    assert heads.shape == (loaded.sites.info(attn).num_heads,)
    assert (int(heads.argmin()), float(heads.min())) == (1, 0.0)


@pytest.mark.parametrize("by", ["magnitude", "activation", "gradient", "log-odds"])
def test_neurons_with_large_outgoing_weights_come_first(by: str) -> None:
    loaded = tiny_with_text("gpt2")
    scale_outgoing(loaded, FFN["decoder"], DEAD, 40.0)
    assert set(np.argsort(-scored(loaded, by, FFN["decoder"]))[: len(DEAD)].tolist()) == set(DEAD)


@pytest.mark.parametrize(("name", "site"), [("llama", FFN["decoder"]), ("marian", FFN["encoder"])])
@pytest.mark.parametrize("by", ["gradient", "log-odds"])
def test_gradients_are_those_of_the_unpadded_texts(name: str, site: Site, by: str) -> None:
    loaded = tiny_with_text(name)
    text = corpus(parallel=name == "marian")
    total, tokens = np.zeros(loaded.sites.info(site).width), 0
    for example in text:
        h, g = solo_gradient(loaded, example, site, by)
        total, tokens = total + np.abs(h * g).sum(axis=0), tokens + len(h)
    np.testing.assert_allclose(scored(loaded, by, site), total / tokens, rtol=2e-3, atol=1e-6)


def solo_gradient(loaded: LoadedModel, example: Example, site: Site, by: str) -> tuple[np.ndarray, np.ndarray]:
    """Activations of one text and the gradient by them, worked out apart."""
    model: Any = loaded.model
    ids = torch.tensor([loaded.tokenizer(example.source.text)["input_ids"]])
    inputs, targets = {"input_ids": ids}, ids[0, 1:]
    if example.target:
        target = torch.tensor(loaded.tokenizer(example.target.text)["input_ids"])
        start = torch.tensor([model.config.decoder_start_token_id])
        inputs["decoder_input_ids"], targets = torch.cat([start, target[:-1]])[None], target
    with capture(model, [site], loaded.sites) as recorded:
        log_p = model(**inputs).logits[0, : len(targets)].log_softmax(-1).gather(1, targets[:, None])
    total = -log_p.sum() if by == "gradient" else (log_p - torch.log1p(-log_p.exp())).sum()
    (gradient,) = torch.autograd.grad(total, recorded[site])
    return recorded[site][0].detach().numpy(), gradient[0].numpy()


def test_where_the_mean_stays_a_constant_neuron_does_not_matter() -> None:
    loaded = tiny_with_text("bert")
    site = FFN["encoder"]
    into: Any = loaded.sites.layers["encoder"][0].part("intermediate.dense")
    with torch.no_grad():
        into.weight[7] = 0.0
        into.bias[7] = 3.0
    for by in ("activation", "gradient", "log-odds"):
        assert scored(loaded, by, site, to="zero")[7] > 0
        assert scored(loaded, by, site, to="mean")[7] < 1e-6


def test_activation_takes_what_neurons_will_be_held_at_from_the_calibration() -> None:
    loaded, site = tiny_with_text("gpt2"), FFN["decoder"]
    every = calibrate_model(loaded, corpus())
    held = SiteStatistics(1, every.mean(site) + 1, every.std(site))
    words = Calibration("tiny", loaded.fingerprint, {site: held}, {}, "words")
    outgoing = np.sqrt(out_squares(loaded, site))
    found = scored(loaded, "activation", site, calibration=every, to="mean")
    np.testing.assert_allclose(found, every.std(site) * outgoing, rtol=1e-5)
    expected = np.sqrt(every.std(site) ** 2 + 1) * outgoing
    found = scored(loaded, "activation", site, calibration=words, to="mean")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_several_measures_are_joined_by_their_geometric_mean() -> None:
    loaded, site = tiny_with_text("gpt2"), FFN["decoder"]
    joint = scored(loaded, "log-odds+activation", site)
    each = scored(loaded, "log-odds", site) * scored(loaded, "activation", site)
    np.testing.assert_allclose(joint, np.sqrt(each))
    with pytest.raises(BadInput, match="no salience measure 'activation\\+size'"):
        salience(loaded, "activation+size", [site])


@pytest.mark.parametrize("by", MEASURES)
def test_the_same_seed_gives_the_same_scores(by: str) -> None:
    loaded, site = tiny_with_text("bert"), FFN["encoder"]
    first, again, other = (scored(loaded, by, site, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (by in ("magnitude", "activation"))


@pytest.mark.parametrize("by", ["magnitude", "activation", "gradient", "log-odds"])
def test_what_a_ranking_keeps_matters_and_what_a_shuffled_one_keeps_does_not(by: str) -> None:
    loaded = tiny_with_text("gpt2")
    draw = np.random.default_rng(0)
    for site in sites_to_prune(loaded, "ffn"):
        scale_outgoing(loaded, site, draw.permutation(48)[:24], 0.01)
    scores = salience(loaded, by, sites_to_prune(loaded, "ffn"), corpus=corpus())
    shuffled = {site: draw.permutation(values) for site, values in scores.items()}
    changes = [change(loaded, prune_to(loaded, s, 0.5, Way(by, round_to=1))) for s in (scores, shuffled)]
    assert changes[0] < 0.05 * changes[1]


@torch.inference_mode()
def change(loaded: LoadedModel, pruned: LoadedModel) -> float:
    inputs = inputs_for(loaded.model)
    return float((loaded.model(**inputs).logits - pruned.model(**inputs).logits).abs().mean())


def test_every_masked_token_is_an_ordinary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from neurodial.interpret.activations import losses

    loaded = tiny_with_text("bert")
    batches = [batch for batch, _ in losses.loss_batches(loaded, corpus(), seed=3)]
    for batch in batches:
        hidden = batch.labels != losses.IGNORED
        assert (batch.inputs["input_ids"][hidden] == MASK).all()
        assert (hidden.sum(dim=1) >= 1).all()
        assert not torch.isin(batch.labels[hidden], torch.tensor(loaded.tokenizer.all_special_ids)).any()


def test_mistakes_are_named(make_headless: Callable[[], LoadedModel]) -> None:
    loaded, site = tiny_with_text("gpt2"), FFN["decoder"]
    with pytest.raises(BadInput, match="no salience measure 'size'"):
        salience(loaded, "size", [site])
    for by in ("activation", "gradient", "log-odds"):
        with pytest.raises(CorpusError, match=f"{by} scores need a corpus"):
            salience(loaded, by, [site])
    with pytest.raises(ModelError, match="no language-model head"):
        salience(make_headless(), "gradient", [FFN["encoder"]], corpus=corpus())
    with torch.no_grad():
        next(loaded.sites.info(site).module.parameters())[0] = float("nan")
    with pytest.raises(BadInput, match="not a number"):
        salience(loaded, "magnitude", [site])


@pytest.fixture
def make_headless() -> Callable[[], LoadedModel]:
    from transformers import BertConfig, BertModel

    from tests.word_tokenizer import with_tokenizer

    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
    return lambda: with_tokenizer(BertModel(config).eval())
