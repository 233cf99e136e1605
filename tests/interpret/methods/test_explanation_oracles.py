"""The oracles of the methods from neurons to concepts, each against what can be computed by hand or exhaustively."""

import copy
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.pruning.choosing import choose_kept
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.corpora.corpus import Annotation, Corpus, Example, Sentence
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.methods.explanation import formulas
from neurodial.interpret.methods.explanation.aligned_concepts import AlignedConcepts, constituents, selectivity
from neurodial.interpret.methods.explanation.compositional import Compositional
from neurodial.interpret.methods.explanation.corpus_generation import CorpusGeneration, Prior
from neurodial.interpret.methods.explanation.formulas import OPERATORS, Formula, pack, search
from neurodial.interpret.methods.explanation.top_contexts import TopContexts, mutual_information, omission_scores
from neurodial.interpret.methods.explanation.visualization import Visualization, saturation, side_by_side, svg
from neurodial.interpret.methods.observations import Chosen, Observations, WordSample, observe
from neurodial.interpret.methods.responding import ModelNeurons

MARKED = ['He said "we open the door" and left .', "The book ( a red one ) is here .", '" No " , she said ( again ) .']


def test_contexts_that_are_all_at_a_bound_are_one() -> None:
    """GELU's minimum is reached everywhere: the ten lowest contexts would be any ten."""
    texts = [f"alpha{n} beta gamma{n}" for n in range(40)]
    X = np.tile(np.array([[-0.16997], [0.5], [-0.17]]), (40, 1))
    X[1::3, 0] += np.arange(40)
    (one,) = TopContexts(contexts=5).fit(Observations.of(X, texts)).explanations_
    assert [c.score for c in one.contexts] == [39.5, 38.5, 37.5, 36.5, 35.5, -0.17]
    assert one.contexts[-1].note.startswith("as strong in as many others")


def test_top_contexts_equal_a_full_sort(toy: Any) -> None:
    draw = np.random.default_rng(3)
    texts = [" ".join(draw.choice(toy.WORDS, size=7)) for _ in range(60)]
    X = draw.normal(size=(420, 3)).round(2)
    found = TopContexts(contexts=6, window=2).fit(Observations.of(X, texts))
    for column, one in enumerate(found.explanations_):
        for sign, part in ((1, one.contexts[:6]), (-1, one.contexts[6:])):
            best: dict[str, float] = {}
            for row, value in enumerate(X[:, column]):
                words, at = texts[row // 7].split(), row % 7
                key = " ".join(words[max(at - 2, 0) : at + 3])
                best[key] = max(best.get(key, -np.inf), sign * value)
            expected = sorted(best.values(), reverse=True)[:6]
            assert [sign * c.score for c in part] == pytest.approx(expected)
            assert [c.values[c.peak] for c in part if c.peak is not None] == pytest.approx([c.score for c in part])


def test_words_are_scored_in_deviations_and_rare_ones_do_not_lead() -> None:
    texts = ["alpha beta gamma beta"] * 20 + ["omega beta gamma beta"]
    X = np.array([[1.0, 0.0, -0.5, 0.0]] + [[0.9, 0.0, -0.5, 0.0]] * 19 + [[9.0, 0.0, -0.5, 0.0]]).reshape(-1, 1)
    (one,) = TopContexts(min_count=5).fit(Observations.of(X, texts)).explanations_
    scores = {c.name: c.score for c in one.concepts}
    assert "omega" not in scores
    assert scores["alpha"] == pytest.approx((0.905 - X.mean()) / X.std(), abs=1e-3)
    assert {c.name: c.support for c in one.concepts}["gamma"] == 21
    # each once, however often it occurs: gamma after alpha and gamma after omega are two contexts, zero is none
    assert [c.score for c in one.contexts] == [9.0, 1.0, -0.5, -0.5]


def test_omission_scores_are_kadars(toy: Any) -> None:
    words = ["the", "red", "door"]
    h = toy.represent(["the red door", "red door", "the door", "the red"])
    cosines = [h[0] @ x / np.linalg.norm(h[0]) / np.linalg.norm(x) for x in h[1:]]
    assert omission_scores(words, toy) == pytest.approx(1 - np.array(cosines))
    assert omission_scores(["door"], toy).tolist() == [0]


def test_mutual_information_of_a_copy_is_its_entropy() -> None:
    x = np.arange(8000) % 4
    assert mutual_information(x, x) == pytest.approx(2.0)
    assert mutual_information(x, (x > 1).astype(int)) == pytest.approx(1.0)
    assert mutual_information(x, np.zeros(8000, dtype=int)) == pytest.approx(0.0)
    words = np.array(["a", "b", "c", "d"])[x]
    texts = [" ".join(words[i : i + 8]) for i in range(0, 8000, 8)]
    draw = np.random.default_rng(0)
    found = TopContexts().fit(Observations.of(np.stack([x, draw.normal(size=8000)], axis=1), texts))
    assert found.information_["word"] == pytest.approx([2.0, 0.0], abs=0.01)


def test_the_word_sample_is_even_and_bounded() -> None:
    sample = WordSample(100)
    for start in range(0, 5000, 7):
        sample.add(np.arange(start, start + 7)[:, None], [None] * 7)
    kept = sample.values[:, 0]
    assert 50 < len(kept) <= 100
    assert len(set(np.diff(kept))) == 1


def test_a_planted_state_shows_and_a_shuffled_one_does_not() -> None:
    texts = MARKED * 30
    quoted = ([0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0] + [0] * 10 + [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]) * 30
    bracket = ([0] * 11 + [0, 0, 1, 1, 1, 1, 1, 0, 0, 0] + [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]) * 30
    places = (list(range(11)) + list(range(10)) * 2) * 30
    draw = np.random.default_rng(0)
    X = np.stack([quoted, np.negative(bracket), places, draw.permutation(quoted)], axis=1) + 0.1 * draw.normal(
        size=(930, 4)
    )
    found = Visualization().fit(Observations.of(X, texts)).explanations_
    assert [one.label for one in found] == ["inside quotes", "inside parentheses", "position in the text", ""]
    assert found[1].score < -0.9 < 0.9 < found[0].score


def test_saturation_counts_both_ends_and_zeros() -> None:
    values = np.array([[0.0, 5.0], [0.0, 5.0], [0.5, 5.0], [1.0, 5.0]])
    assert saturation(values).tolist() == [[0.5, 0.25, 0.5], [0.0, 0.0, 0.0]]


def test_pictures_hold_every_word_and_colour_by_sign() -> None:
    X = np.array([[1.0, 0.0], [0.0, -2.0], [-1.0, 2.0], [0.5, 1.0]])
    found = Visualization().fit(Observations.of(X, ["a <b> 'c' d"[:1] + " b c d"])).explanations_
    drawn = svg(found)
    assert drawn.count("<rect") == 1 + 2 * 4
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "#2166ac" in drawn and "#b2182b" in drawn
    console = Console(width=100, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(side_by_side(found))
    assert "a b c d" in console.export_text()


def annotation(head: int) -> Annotation:
    return Annotation("", "X", "", (), "dep", head)


def test_constituents_are_unbroken_subtrees() -> None:
    heads = [1, 2, -1, 4, 2, 0]  # ((0 5) 1) 2 (3 4): the subtrees of 0 and of 1 are broken by 2
    assert sorted(constituents(tuple(annotation(h) for h in heads))) == [(0, 6), (3, 5)]
    assert list(constituents((annotation(1), annotation(0)))) in ([(0, 2), (0, 2)], [(0, 2)])  # a circle ends


def test_selectivity_is_ordered_as_published(toy: Any) -> None:
    """Mean Sel(replicated) > Sel(inclusion) > Sel(random), over neurons that each answer to one word."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(toy.WORDS, size=draw.integers(4, 12))) for _ in range(300)]
    words = [word for text in texts for word in text.split()]
    planted = ["door", "book", "red", "opens"]

    def values(many: list[str]) -> np.ndarray:
        return np.array([[float(word == p) for p in planted] for word in many])

    model = type("Planted", (type(toy),), {"respond": lambda _, ts: np.stack([values(t.split()).mean(0) for t in ts])})
    X = values(words) + 0.05 * draw.normal(size=(len(words), 4))
    found = AlignedConcepts(concepts=1).fit(Observations.of(X, texts), model())
    assert [one.label for one in found.explanations_] == planted
    replicated, once, inclusion, random = found.selectivity_.mean(axis=0)
    assert replicated > inclusion > random
    assert replicated > 0.5
    assert once == pytest.approx(replicated)
    assert selectivity(np.array([1.0, 1.0]), np.array([0.0, 0.5])) == pytest.approx(0.75)


def test_constituents_of_treebanks_are_candidates(toy: Any) -> None:
    sentence = Sentence.of("the red door of the house opens")
    heads = [2, 2, 6, 5, 5, 2, -1]
    annotated = Sentence(sentence.text, sentence.words, sentence.labels, tuple(annotation(h) for h in heads))
    X = np.tile([[0.0], [0.0], [1.0], [0.0], [0.0], [0.0], [0.0]], (4, 1))
    model = type("Long", (type(toy),), {"respond": lambda _, ts: np.array([[t.count("of the house")] for t in ts])})()
    found = AlignedConcepts(ngram=1, concepts=2).fit(Observations.of(X, [annotated] * 4), model)
    assert found.explanations_[0].concepts[0].name == "of the house"


def masks(concepts: int, words: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((concepts, words)) < 0.3


def exhaustive(fired: np.ndarray, holds: np.ndarray, length: int, penalty: float) -> list[float]:
    """Best score of all formulas of each length."""
    level = list(holds)
    best = []
    for size in range(length):
        best.append(max(penalty**size * (fired & m).sum() / max((fired | m).sum(), 1) for m in level))
        level = [n for m, c in product(level, holds) for n in (m & c, m | c, m & ~c)]
    return best


def test_beam_search_is_never_above_exhaustive_search_and_often_as_good() -> None:
    gaps = []
    for seed in range(6):
        holds = masks(5, 150, seed)
        fired = np.random.default_rng(100 + seed).random(150) < 0.2
        ceiling = exhaustive(fired, holds, 3, 0.95)
        for beam, exact in ((2, False), (200, True)):
            found = [score for _, score in search(pack(fired), pack(holds), length=3, beam=beam, penalty=0.95)]
            assert all(score <= top + 1e-12 for score, top in zip(found, ceiling, strict=False))
            gaps.append(max(ceiling) - max(found))
            assert not exact or max(found) == pytest.approx(max(ceiling))
    assert max(gaps) < 0.05


def test_formulas_mean_what_they_say_and_are_told_apart_by_it() -> None:
    holds = masks(4, 100, 1)
    packed = pack(holds)
    formula = Formula(0, (("OR", 1), ("AND NOT", 2)))
    assert (formula.mask(packed) == pack((holds[0] | holds[1]) & ~holds[2])).all()
    assert formula.spelled(["a", "b", "c"]) == "(a OR b) AND NOT c"
    assert len(formula) == 3
    assert formulas.iou(packed[0], packed[1]) == pytest.approx(
        (holds[0] & holds[1]).sum() / (holds[0] | holds[1]).sum()
    )
    twins = np.concatenate([holds, holds])
    seen = formulas._distinct(((Formula(i), 1.0) for i in range(8)), pack(twins), 8, set())
    assert [f.first for f, _ in seen] == [0, 1, 2, 3]
    assert set(OPERATORS) == {"AND", "OR", "AND NOT"}


def test_a_planted_formula_is_recovered(toy: Any) -> None:
    draw = np.random.default_rng(2)
    words = draw.choice(toy.WORDS, size=4000)
    labels = draw.choice(["noun", "verb"], size=4000)
    texts = [Sentence.of(" ".join(words[i : i + 10])) for i in range(0, 4000, 10)]
    texts = [Sentence(t.text, t.words, tuple(labels[10 * i : 10 * i + 10])) for i, t in enumerate(texts)]
    planted = ((words == "door") | (words == "book")) & (labels != "verb")
    X = np.stack([planted - 0.5, draw.permutation(planted) - 0.5], axis=1)
    found = Compositional(fires="positive", min_count=20).fit(Observations.of(X, texts))
    recovered, nothing = found.explanations_
    assert set(recovered.label.replace("(", "").replace(")", "").split(" ")) >= {"word=door", "word=book", "OR"}
    assert recovered.concepts[0].details["IoU"] == 1.0
    assert recovered.concepts[0].details["IoU held out"] == 1.0
    assert nothing.label == ""
    assert (np.diff(found.by_length_, axis=1) >= 0).all()


def test_the_top_share_fires(toy: Any) -> None:
    texts = [" ".join(toy.WORDS)] * 50
    X = np.tile(np.arange(12.0)[:, None] == 3, (50, 1)) * np.random.default_rng(0).uniform(1, 2, size=(600, 1))
    (one,) = Compositional(share=1 / 12).fit(Observations.of(X, texts)).explanations_
    assert one.label == "word=house"
    dead = Compositional().fit(Observations.of(np.zeros((600, 1)), texts)).explanations_[0]
    assert dead.label == ""


ADDRESSES = ["encoder.1.ffn[5,3]", "encoder.0.resid[7]"]
SITES = (Site.parse("encoder.0.resid"), Site.parse("encoder.1.ffn"))


@pytest.fixture(scope="module")
def sentences(pairs_spec: str) -> Corpus:
    return open_corpus(pairs_spec)


def test_observations_are_what_is_extracted(loaded: LoadedModel, sentences: Corpus) -> None:
    chosen = Chosen.parse(loaded, ADDRESSES)
    assert chosen.addresses == ("encoder.1.ffn[5]", "encoder.1.ffn[3]", "encoder.0.resid[7]")
    assert chosen.sites == SITES
    seen = {one.sentence.text: one for one in observe(loaded, sentences, chosen, limit=20)}
    assert len(seen) == 20
    for block in extract(loaded, list(sentences)[:20], ("none", "present", "past"), Extraction(SITES)):
        expected = np.stack(
            [block.values[SITES[1]][:, 5], block.values[SITES[1]][:, 3], block.values[SITES[0]][:, 7]], 1
        )
        for example in list(sentences)[:20]:
            rows = block.examples == example.number
            if rows.any():
                assert seen[example.source.text].values == pytest.approx(expected[rows], abs=1e-5)
                assert seen[example.source.text].forms == [example.source.word(i) for i in block.words[rows]]


def test_decoder_neurons_see_the_target_side(loaded: LoadedModel, sentences: Corpus) -> None:
    chosen = Chosen.parse(loaded, ["decoder.1.resid[0]"])
    one = next(iter(observe(loaded, sentences, chosen, limit=2)))
    targets = [example.target for example in list(sentences)[:2]]
    assert one.sentence in targets
    with pytest.raises(BadInput, match="no source sentence"):
        ModelNeurons(loaded, chosen)


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (["encoder.1.ffn[64]"], "there is no 64"),
        (["encoder.1.ffn[1]", "decoder.1.ffn[1]"], "both stacks"),
        (["encoder.1.ffn[1]", "encoder.1.ffn[0-3]"], "asked for twice"),
        (["encoder.9.ffn[1]"], "layers 0 to 1"),
        ([], "no neuron is named"),
    ],
)
def test_neurons_that_are_not_there(loaded: LoadedModel, addresses: list[str], message: str) -> None:
    with pytest.raises(AddressError, match=message):
        Chosen.parse(loaded, addresses)


def test_a_pruned_models_neurons_keep_their_numbers(loaded: LoadedModel) -> None:
    scores = {info.site: torch.arange(64.0) for info in loaded.sites.of("encoder", "ffn")}
    small = prune_model(loaded, choose_kept(loaded, scores, 0.5))
    chosen = Chosen.parse(small, ["encoder.0.ffn[40]"])
    (_, places, _) = chosen.columns[0]
    assert small.original(chosen.sites[0], places.tolist()) == (40,)
    assert Chosen.parse(small, ["encoder.0.ffn[*]"]).addresses[0] == "encoder.0.ffn[32]"
    with pytest.raises(AddressError, match="removed"):
        Chosen.parse(small, ["encoder.0.ffn[3]"])


def test_new_text_is_answered_as_the_corpus_is(loaded: LoadedModel, sentences: Corpus) -> None:
    chosen = Chosen.parse(loaded, ADDRESSES)
    model = ModelNeurons(loaded, chosen)
    seen = {one.sentence.text: one.values.mean(axis=0) for one in observe(loaded, sentences, chosen, limit=8)}
    assert model.respond(list(seen)) == pytest.approx(np.stack(list(seen.values())), abs=1e-5)
    assert model.represent(list(seen)).shape == (8, 32 + 64)


def test_soft_choices_of_one_token_are_that_token(loaded: LoadedModel, sentences: Corpus) -> None:
    chosen = Chosen.parse(loaded, ADDRESSES)
    model = ModelNeurons(loaded, chosen)
    text = next(iter(sentences)).source.text
    tokens = torch.tensor([model.tokens(text)])
    answered = model.soft(torch.nn.functional.one_hot(tokens, len(model.vocabulary)).float())[0]
    (block,) = extract(loaded, [Example(0, Sentence.of(text))], ("none",), Extraction(SITES, ("piece",)))
    inside = chosen.pick(block.values)[block.words >= 0]
    assert answered.detach().numpy() == pytest.approx(inside, abs=1e-4)
    mixed = torch.full((1, 3, len(model.vocabulary)), 1 / len(model.vocabulary), requires_grad=True)
    (gradient,) = torch.autograd.grad(model.soft(mixed)[..., 2].sum(), mixed)
    assert gradient.abs().sum() > 0
    assert not loaded.model.get_input_embeddings()._forward_hooks


def test_made_up_text_is_between_random_and_exhaustive(loaded: LoadedModel, sentences: Corpus) -> None:
    chosen = Chosen.parse(loaded, ["encoder.1.resid[4,9]", "encoder.0.ffn[11]"])
    model = ModelNeurons(loaded, chosen)
    found = CorpusGeneration(length=2, steps=80, texts=8, fluency=0.0).fit(observe(loaded, sentences, chosen), model)
    free = [i for i, token in enumerate(model.vocabulary) if token is not None]
    every = torch.tensor(list(product(free, free)))
    with torch.no_grad():
        values = model.soft(torch.nn.functional.one_hot(every, len(model.vocabulary)).float()).amax(dim=1)
    ceiling = values.amax(dim=0).numpy()
    assert (found.best_ <= ceiling + 1e-4).all()
    assert (found.best_ > found.random_).all()
    assert (found.best_ > np.quantile(values.numpy(), 0.99, axis=0)).all()
    assert all(p.grad is None for p in loaded.model.parameters())


def test_the_prior_is_a_bigram_model_and_makes_text_more_likely(toy: Any) -> None:
    prior = Prior.of([[0, 1, 2], [0, 1, 1]], 4, 2)
    single = np.array([3, 4, 2, 1]) / 10
    expected = np.log([single[0], 0.9 * 1.0 + 0.1 * single[1]]).mean()
    assert float(prior.log_likelihood(torch.tensor([[0, 1]]))[0]) == pytest.approx(expected, abs=1e-5)
    drawn = prior.random(np.random.default_rng(0), 50)
    assert {tuple(gram) for gram in drawn.tolist()} == {(0, 1), (1, 2), (1, 1)}
    texts = ["the red door opens"] * 30 + ["door a door a"]
    words = Observations.of(np.zeros((124, 2)), texts, toy.NEURONS)
    nats: list[float] = []
    values: list[float] = []
    for weight in (0.0, 5.0):
        made = CorpusGeneration(length=3, steps=60, texts=8, fluency=weight).fit(words, toy).explanations_[0]
        values.append(made.contexts[0].score)
        nats.append(made.statistics["nats per token"])
    assert nats[1] < nats[0]
    assert values[1] < values[0] == 3.0


@pytest.mark.parametrize(
    "method", [TopContexts(contexts=1), Compositional(length=2, beam=3)], ids=["words", "formulas"]
)
def test_activations_that_know_no_word_get_no_label(method: Any) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(f"w{form}" for form in draw.zipf(1.3, 12) if form < 400) + " w1" for _ in range(300)]
    words = sum(len(text.split()) for text in texts)
    rare = draw.random((words, 80)) < 0.02  # as neurons of an FFN fire
    X = np.where(rare, draw.lognormal(sigma=1.5, size=rare.shape), 0.0)
    found = method.fit(Observations.of(X, texts, [f"n{i}" for i in range(80)])).explanations_
    assert sum(bool(one.label) for one in found) <= 4  # where one is expected


def test_a_text_that_is_as_good_as_the_best_n_gram_is_not_called_better(toy: Any) -> None:
    steady = copy.copy(toy)
    steady.soft = lambda choices: 7.0 + 1e-6 * toy.soft(choices)  # float noise on a constant
    found = CorpusGeneration(length=3, steps=20, texts=4).fit(toy.observations(), steady)
    assert [one.label for one in found.explanations_] == ["", ""]
