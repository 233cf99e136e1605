"""Evidence: each part finds what was planted and nothing where there is nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.corpora.corpus import Corpus, pair_of_examples
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.evidence.cases import concept_cases, other_texts, text_parts
from neurodial.interpret.evidence.causal import Intervener, Measurement, scores, unchanged
from neurodial.interpret.evidence.exchange import Exchange, resampled_pairs
from neurodial.interpret.evidence.matching import matched_neurons
from neurodial.interpret.evidence.probes import Rows, probe_evidence
from neurodial.interpret.evidence.significance import significance
from neurodial.interpret.evidence.stability import stability
from neurodial.interpret.gathering.gather import gather
from neurodial.interpret.gathering.plan import GatheringPlan, match_sites
from neurodial.interpret.methods.ranking.mean_difference import MeanDifference
from neurodial.interpret.methods.ranking.probeless import Probeless
from neurodial.interpret.tasks.interventions import effects, to_values
from tests.word_tokenizer import tiny_with_text

SITE = Site.parse("encoder.1.resid")


def rows(n: int = 400, width: int = 40, planted: tuple[int, ...] = (), *, forms: int = 80, seed: int = 0) -> Block:
    """Words of so many forms, each with one label; planted neurons know the label, all others the form."""
    draw = np.random.default_rng(seed)
    types = draw.integers(0, forms, n)
    labels = 1 + types % 2
    x = draw.normal(size=(forms, width))[types] + 0.3 * draw.normal(size=(n, width))
    x[:, list(planted)] += 2.0 * labels[:, None]
    number = np.arange(n)
    none = np.full(n, -1)
    return Block("encoder", "word", number // 2, number % 2, types, labels, none, np.zeros(n, dtype=int), {SITE: x})


def paired(block: Block) -> Block:
    """The same rows as minimal pairs: rows 2k and 2k + 1 are the two labels of pair k."""
    number = np.arange(len(block))
    return replace(block, pairs=number // 2, labels=1 + number % 2, examples=number, words=np.zeros(len(block), int))


def test_planted_neurons_are_significant_and_forms_alone_are_not() -> None:
    block = rows(planted=(3, 17))
    found = significance(block.values[SITE], Exchange.of(block), permutations=100, seed=0)
    assert np.flatnonzero(found.q <= 0.05).tolist() == [3, 17]
    assert found.p.min() == pytest.approx(1 / (101 * 40))
    torn = replace(Exchange.of(block), unit=np.arange(len(block)))  # every word by itself: forms look like labels
    assert (significance(block.values[SITE], torn, permutations=100, seed=0).q <= 0.05).sum() > 10


def test_p_values_of_shuffled_labels_are_even() -> None:
    block = rows(width=400)
    shuffled = replace(block, labels=1 + np.random.default_rng(5).permutation(80)[block.types] % 2)
    p = significance(shuffled.values[SITE], Exchange.of(shuffled), permutations=100, seed=1).p
    assert abs((p <= 0.1).mean() - 0.1) < 0.06
    assert abs((p <= 0.5).mean() - 0.5) < 0.1


@pytest.mark.parametrize("activations", ["independent", "alike", "rarely firing"])
def test_where_nothing_tells_the_labels_apart_nothing_is_found(activations: str) -> None:
    found = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        x = draw.normal(size=(60, 80))
        if activations == "alike":
            x += 2 * draw.normal(size=(60, 3)) @ draw.normal(size=(3, 80))
        elif activations == "rarely firing":
            x = np.maximum(x - 1.5, 0) * draw.lognormal(size=x.shape)
        exchange = Exchange(draw.integers(0, 2, 60), np.arange(60), False)
        found += int(significance(x, exchange, permutations=60, seed=seed).q.min() <= 0.05)
    assert found <= 10  # of 100, where 5 are expected


def test_neurons_that_never_change_are_not_found() -> None:
    block = rows(planted=(3,))
    block.values[SITE][:, 8] = 5.0
    found = significance(block.values[SITE], Exchange.of(block), permutations=50, seed=0)
    assert (found.share[8], found.q[8] > 0.05) == (0.0, True)


def test_pairs_of_the_same_words_swap_together() -> None:
    block = paired(rows())
    types = np.tile([1, 2, 3, 4], 100)  # two kinds of pairs
    exchange = Exchange.of(replace(block, types=types))
    assert (exchange.swaps, exchange.units) == (True, 2)
    for labels in exchange.permuted(20, seed=0):
        assert (labels[0::2] + labels[1::2] == 1).all()  # a pair keeps one of each
        assert len(set(labels[0::4].tolist())) == len(set(labels[2::4].tolist())) == 1


def test_stability_is_high_for_planted_neurons_and_chance_for_noise() -> None:
    strong = stability(Probeless(), rows(planted=(1, 2, 3, 4)), 4, resamples=6, seed=0)
    assert strong["top_shared"] == 1.0
    draw = np.random.default_rng(0)
    noise = paired(rows(n=600, width=300))
    noise.values[SITE][:] = draw.normal(size=noise.values[SITE].shape)
    weak = stability(MeanDifference(), noise, 10, resamples=6, seed=0)
    assert weak["chance"] == pytest.approx(1 / 30, abs=1e-4)
    assert weak["top_shared"] < 0.8
    assert weak["rank_correlation"] < 0.7


def test_couples_are_the_kth_words_of_both_sentences() -> None:
    block = paired(rows(n=8))
    labels = np.array([1, 1, 2, 2, 2, 1, 2, 1])
    pairs = np.array([0, 0, 0, 0, 0, 1, 1, 2])  # two couples and a word without partner; one couple; none
    found, couple = resampled_pairs(replace(block, labels=labels, pairs=pairs))
    assert found.tolist() == [0, 2, 1, 3, 5, 6]
    assert couple.tolist() == [0, 0, 1, 1, 2, 2]


def test_matched_neurons_lie_outside_and_have_the_same_scale() -> None:
    deviations = np.exp(np.random.default_rng(0).normal(size=300))
    chosen = np.argsort(-deviations)[5:25]
    found, ratio = matched_neurons({SITE: chosen}, {SITE: deviations}, seed=0)
    assert not set(found[SITE]) & set(chosen)
    assert len(set(found[SITE])) == 20
    assert ratio < 2.5 < deviations[chosen].mean() / np.median(deviations)
    small, _ = matched_neurons({SITE: np.arange(8)}, {SITE: deviations[:10]}, seed=0)
    assert len(set(small[SITE])) == 8
    assert {8, 9} <= set(small[SITE])


@pytest.fixture(scope="module")
def corpus(pairs_spec: str) -> Corpus:
    return open_corpus(pairs_spec)


def test_an_ablation_is_that_of_the_interventions_module(loaded: LoadedModel, corpus: Corpus) -> None:
    data = gather(loaded, corpus, GatheringPlan((SITE,)))
    cases = concept_cases(loaded, corpus, 5)
    make = Intervener(loaded, data.moments, data.classes, ())
    chosen = {SITE: np.array([1, 5, 9])}
    part = cases.parts["past"][0]
    moved = scores(loaded, [part], make.ablate(chosen)) - scores(loaded, [part], None)
    mean = {SITE: torch.from_numpy(data.moments[SITE].overall[0].astype(np.float32))}
    unit = [{SITE: [1, 5, 9]}]
    assert part.other is not None
    exact = effects(loaded, part.other, unit, to_values(mean))[0] - effects(loaded, part.own, unit, to_values(mean))[0]
    assert moved == pytest.approx(exact.numpy(), abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_other_families_are_asked_for_a_word(family: str) -> None:
    known = tiny_with_text(family)
    texts = [
        (f"w{2 + n % 9} w{20 + n % 5} w{30 + n // 9}", f"w{2 + n % 9} w{40 + n % 5} w{30 + n // 9}") for n in range(90)
    ]
    examples = [e for n, both in enumerate(texts) for e in pair_of_examples(2 * n, n, ("present", "past"), both)]
    corpus = Corpus.of("pairs", examples, labels=("present", "past"))
    cases = concept_cases(known, corpus, 6)
    assert cases.measure.startswith("log p of the other sentence's word")
    assert cases.examples("past") == 6
    assert cases.parts["past"][0].own.foils is not None
    found = discover(known, corpus, Discovery("tense", top=4), other=corpus)
    assert set(found.evidence["causal"]["control"]) == {"present", "past"}


@pytest.fixture(scope="module")
def found(loaded: LoadedModel, corpus: Corpus) -> NeuronSet:
    return discover(loaded, corpus, Discovery("tense", top=10))


def test_the_evidence_of_a_set(found: NeuronSet, loaded: LoadedModel, corpus: Corpus) -> None:
    evidence = found.evidence
    assert evidence["level"] == "quick"
    tested = evidence["significance"]["encoder"]
    assert (tested["neurons"], tested["set"], len(tested["p"])) == (32, 10, 10)
    assert tested["units"] == 5  # verbs
    assert 0 <= evidence["stability"]["encoder"]["top_shared"] <= 1
    causal = evidence["causal"]
    assert len(causal["ablate"]["past"]["random"]["all"]) == 5
    assert causal["off_target"]["ablate"]["set"] > 0
    control = causal["control"]["past"]
    assert control["op"] == "map"
    assert len(control["random"]["all"]) == len(control["shuffled_labels"]["all"]) == 19
    low, high = control["selection"]["gain_95"]
    assert low < control["set"] - control["random"]["mean"] < high
    assert control["whole_vector"]["set_95"][0] < control["whole_vector"]["set_95"][1]
    assert causal["called"] in {"neurons of the concept", "a control of the site"}
    assert json.loads(json.dumps(evidence)) == evidence


def test_changing_no_neuron_changes_nothing(loaded: LoadedModel, corpus: Corpus) -> None:
    sites = match_sites(loaded, ())
    data = gather(loaded, corpus, GatheringPlan(sites))
    cases = concept_cases(loaded, corpus, 4)
    make = Intervener(loaded, data.moments, data.classes, ())
    other = text_parts(loaded, other_texts(None, 4)[1])
    measured = Measurement(make, cases, unchanged(loaded, cases), [], other, scores(loaded, other, None))
    nothing, everything = {SITE: np.arange(0)}, {SITE: np.arange(32)}
    effects, cost = measured.ablating(nothing, corpus.labels)
    assert effects["past"]["set"] == measured.moving(nothing, corpus.labels)["past"]["set"] == 0.0
    assert cost["set"] == 1.0
    assert measured.ablating(everything, corpus.labels)[0]["past"]["set"] != 0.0


def test_other_text_holds_no_verb_unless_it_is_given(corpus: Corpus) -> None:
    name, texts = other_texts(None, 60)
    assert name.startswith("noun phrases")
    assert len(texts) == 60
    assert not {word for text in texts for word in text.split()} & {"that", "and", "likes", "says", "know"}
    assert other_texts(corpus, 7)[1] != other_texts(None, 7)[1]


def test_labels_without_pairs_are_measured_by_the_damage(loaded: LoadedModel, corpus: Corpus) -> None:
    single = Corpus.of("words", [replace(e, pair=None) for e in corpus], labels=corpus.labels)
    made = discover(loaded, single, Discovery("tense", "probeless", top=5))
    causal = made.evidence["causal"]
    assert causal["measure"].startswith("− log p")
    assert "share" not in causal["control"]["past"]
    assert len(causal["control"]["past"]["shuffled_labels"]["all"]) == 19


def test_no_evidence_where_none_is_wanted(loaded: LoadedModel, corpus: Corpus) -> None:
    made = discover(loaded, corpus, Discovery("tense", top=5, evidence="none"))
    assert set(made.evidence) == {"readout", "map_explained"}


def test_accuracy_is_that_on_forms_the_probe_has_not_seen() -> None:
    block = rows(n=1200)  # every neuron knows the forms, none the label
    block = replace(block, splits=np.arange(1200) // 40 % 5 // 4)
    words = Rows.of(block, [1, 2])
    trained, tested = set(words.types[words.train]), set(words.types[words.test])
    assert tested
    assert not trained & tested
    found = probe_evidence(words, {SITE: np.arange(40)}, seed=0)
    assert found["accuracy_seen_forms"] > 0.8
    assert found["accuracy"] < 0.7
    assert found["selectivity_low"] < 0  # a label of each form is a control task itself
    sentences = Rows.of(replace(block, words=np.full(1200, -1)), [1, 2])
    assert (sentences.unseen, len(sentences.y)) == (None, 1200)


def test_pairs_keep_both_forms_of_a_verb_on_one_side() -> None:
    block = paired(rows(n=800))
    verbs = np.arange(800) // 2 % 20
    block = replace(block, types=verbs * 2 + np.arange(800) % 2, splits=np.arange(800) // 80 % 2)
    words = Rows.of(block, [1, 2])
    assert not set(words.types[words.train] // 2) & set(words.types[words.test] // 2)
    assert len(set(words.types[words.test] // 2)) == 4  # a fifth of twenty verbs


def test_a_label_of_one_form_stays_in_training() -> None:
    block = rows(n=400, planted=(3,))
    block = replace(block, types=np.where(block.labels == 1, 1, block.types), splits=np.arange(400) // 40 % 5 // 4)
    words = Rows.of(block, [1, 2])
    assert words.unseen is None  # there is no unseen form of the first label to ask for
    assert probe_evidence(words, {SITE: np.arange(4)}, seed=0)["accuracy_seen_forms"] is None
