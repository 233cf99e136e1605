import copy
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import AddressError, BadInput, CorpusError, NeurodialWarning
from neurodial.control.models.lineage import KeptNeurons, Lineage
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import sites_of
from neurodial.control.text.pieces import encode
from neurodial.interpret.activations.extract import Extraction
from neurodial.interpret.activations.storing import extract_to_store
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.evidence.probes import Rows, control_labels
from neurodial.interpret.gathering.gather import gather
from neurodial.interpret.gathering.plan import match_sites

PAST_FORMS = ("opened", "closed", "walked", "saw", "liked")


@pytest.fixture(scope="module")
def corpus(pairs_spec: str) -> Corpus:
    return open_corpus(pairs_spec)


@pytest.fixture(scope="module")
def found(loaded: LoadedModel, corpus: Corpus) -> NeuronSet:
    return discover(loaded, corpus, Discovery("tense", top=10))


def test_a_set_from_minimal_pairs(found: NeuronSet, loaded: LoadedModel) -> None:
    assert found.labels == ("present", "past")
    assert found.num_neurons == 10
    (site,) = found.sites
    assert str(site.site) == "encoder.1.resid"
    assert (np.diff(np.abs(site.scores)) <= 0).all()
    assert site.delta["past"] == pytest.approx(site.scores)  # the ranking is by what a shift adds
    assert site.delta["present"] == pytest.approx(-site.delta["past"])
    assert set(site.maps) == {"present", "past"}
    assert site.maps["past"].weight.shape == (10, 32)
    assert site.quantiles["past"].shape == (5, 10)
    assert [r.classes for r in found.readouts] == [("none", "present", "past")]
    assert (found.recommended.op, found.recommended.where) == ("map", "concept")
    assert not found.check_model(loaded)


def test_on_a_pruned_model_a_set_names_the_original_neurons(
    loaded: LoadedModel, corpus: Corpus, found: NeuronSet
) -> None:
    site = found.sites[0].site
    numbers = tuple(range(100, 132))  # as if these 32 of 200 neurons were left
    lineage = Lineage(("sha256:parent",), "parent", ({"kind": "pruned"},), False, {site: KeptNeurons(200, numbers)})
    again = discover(replace(loaded, lineage=lineage), corpus, Discovery("tense", top=10, evidence="none"))
    assert again.sites[0].indices.tolist() == [100 + place for place in found.sites[0].indices]
    assert again.sites[0].maps["past"].read.tolist() == list(numbers)
    assert again.readouts[0].indices.tolist() == [100 + place for place in found.readouts[0].indices]


def test_the_evidence(found: NeuronSet) -> None:
    probe = found.evidence["probe"]["encoder"]
    assert probe["held_out_rows"] >= 8
    assert 0 <= probe["accuracy"] <= 1
    assert len(probe["random_neurons"]["all"]) == 5
    assert probe["selectivity"] == pytest.approx(probe["accuracy_seen_forms"] - probe["control_task"], abs=1e-3)
    assert probe["selectivity_low"] < probe["selectivity"]
    assert found.evidence["readout"]["encoder.1.resid"]["accuracy"] > 0.5
    assert set(found.evidence["map_explained"]["encoder.1.resid"]) == {"present", "past"}
    assert found.provenance["method"]["slug"] == "mean-difference"
    assert "/" not in found.provenance["corpus"]["name"]


def test_the_same_seed_gives_the_same_digest(
    loaded: LoadedModel, corpus: Corpus, found: NeuronSet, tmp_path: Path
) -> None:
    again = discover(loaded, corpus, Discovery("tense", top=10))
    assert again.digest == found.digest
    again.save(tmp_path / "tense.safetensors")
    assert NeuronSet.load(tmp_path / "tense.safetensors").digest == found.digest
    assert discover(loaded, corpus, Discovery("tense", top=10, seed=1, evidence="none")).digest != found.digest


@pytest.mark.parametrize("method", ["probeless", "linear-probe", "mean-difference"])
def test_every_method_on_several_sites_of_both_stacks(loaded: LoadedModel, corpus: Corpus, method: str) -> None:
    job = Discovery("tense", method, sites=("encoder.*.resid", "decoder.1.ffn"), top=30, evidence="none")
    made = discover(loaded, corpus, job)
    assert made.num_neurons == 30
    assert made.provenance["neurons_ranked"] == 32 + 32 + 64
    assert {str(s.site) for s in made.sites} <= {"encoder.0.resid", "encoder.1.resid", "decoder.1.ffn"}
    scores = [abs(score) for _, score, _ in made.ranked()]
    assert scores == sorted(scores, reverse=True)


def test_neurons_that_a_selecting_method_did_not_select_are_said(loaded: LoadedModel, corpus: Corpus) -> None:
    job = Discovery("tense", "gaussian-probe", {"neurons": 1, "estimate": "mean"}, top=3, evidence="none")
    with pytest.warns(
        NeurodialWarning, match="top=3: gaussian-probe selected only 1 of these; .* take top=1, or set neurons=3"
    ):
        assert discover(loaded, corpus, job).num_neurons == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error", NeurodialWarning)
        discover(loaded, corpus, replace(job, top=1))
        discover(loaded, corpus, replace(job, method="mean-difference", params={}))


def test_a_planted_neuron_is_found(loaded: LoadedModel, corpus: Corpus) -> None:
    model = copy.deepcopy(loaded.model)
    last = {encode(loaded.tokenizer, Sentence.of(form), max_length=9).ids[-2] for form in PAST_FORMS}
    with torch.no_grad():
        embeddings = model.get_encoder().embed_tokens.weight
        embeddings[:, 5] = 0
        embeddings[sorted(last), 5] = 30
    planted = LoadedModel.wrap(model, loaded.tokenizer)
    for method in ("probeless", "mean-difference"):
        made = discover(planted, corpus, Discovery("tense", method, sites=("encoder.embed",), top=3, evidence="none"))
        assert made.ranked()[0][0] == "encoder.embed[5]", method
        assert made.ranked()[0][1] > 0


def test_words_without_pairs(loaded: LoadedModel, tmp_path: Path) -> None:
    rows = []
    for verb, tag in (("opens", "VERB"), ("likes", "VERB"), ("door", "NOUN"), ("book", "NOUN")):
        for number in range(30):
            words = (("the", "DET"), (verb, tag), ("s" * (number % 9 + 1) + str(number), "X"))
            lines = (f"{n}\t{form}\t_\t{pos}" + "\t_" * 6 for n, (form, pos) in enumerate(words, start=1))
            rows.append("\n".join(lines) + "\n")
    path = tmp_path / "words.conllu"
    path.write_text("\n".join(rows))
    corpus = open_corpus(f"{path}?label=upos&labels=VERB,NOUN")
    made = discover(loaded, corpus, Discovery("pos", "probeless", top=5, evidence="none"))
    assert made.labels == ("VERB", "NOUN")
    assert (made.recommended.op, made.recommended.where) == ("shift", "concept")
    assert not made.sites[0].maps
    assert made.sites[0].delta["NOUN"] == pytest.approx(
        made.sites[0].mean["NOUN"] - made.sites[0].mean["VERB"], abs=1e-5
    )
    single = discover(
        loaded, open_corpus(f"{path}?label=upos&labels=VERB"), Discovery("verb", "probeless", top=5, evidence="none")
    )
    assert single.labels == ("VERB",)
    with pytest.raises(CorpusError, match="needs minimal pairs"):
        discover(loaded, corpus, Discovery("pos", "mean-difference"))


def test_labelled_sentences_have_no_gate(loaded: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    rows = [f"{e.source.text}\t{e.label}" for e in corpus]
    path = tmp_path / "sentences.tsv"
    path.write_text("text\tlabel\n" + "\n".join(rows))
    made = discover(loaded, open_corpus(f"sentences:{path}"), Discovery("tense", "probeless", top=5, evidence="none"))
    assert not made.readouts
    assert made.recommended.where == "all"


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("One.\nTwo.\n", "text:{}", "it has no labels"),
        ("text\tlabel\nOne.\ta\nTwo.\ta\n", "sentences:{}", "nothing to contrast"),
        ("x\ty\nShe opens.\tShe opened.\n", "pairs:{}?a=x&b=y", "at least 8 are needed|no labelled word"),
    ],
)
def test_corpora_that_cannot_be_learned_from(
    loaded: LoadedModel, tmp_path: Path, text: str, spec: str, message: str
) -> None:
    path = tmp_path / "corpus"
    path.write_text(text)
    with pytest.raises(CorpusError, match=message):
        discover(loaded, open_corpus(spec.format(path)), Discovery("x", "probeless"))


def test_bad_jobs(loaded: LoadedModel, corpus: Corpus) -> None:
    with pytest.raises(AddressError, match="encoder"):
        discover(loaded, corpus, Discovery("x", sites=("encoder.9.resid",)))
    with pytest.raises(AddressError):
        discover(loaded, corpus, Discovery("x", sites=("*.nothing",)))
    with pytest.raises(BadInput, match="at least one neuron"):
        discover(loaded, corpus, Discovery("x", top=0))
    with pytest.raises(BadInput, match="no method"):
        discover(loaded, corpus, Discovery("x", "guess"))


def test_sites_by_pattern(loaded: LoadedModel) -> None:
    assert [str(s) for s in match_sites(loaded, ())] == ["encoder.1.resid"]
    assert [str(s) for s in match_sites(loaded, ("decoder.*.cross",))] == ["decoder.0.cross", "decoder.1.cross"]


def labelled_texts(count: int = 120) -> Corpus:
    """Sentences with a label of their own, without labelled words or pairs."""
    verbs = {"present": ("opens", "closes", "walks", "likes"), "past": ("opened", "closed", "walked", "liked")}
    texts = [
        (f"{who} {verb} the {thing} {n}", label)
        for n in range(count // 24)
        for who in ("She", "He", "The cook")
        for thing in ("door",)
        for label, forms in verbs.items()
        for verb in forms
    ]
    return Corpus.of("texts", [Example(n, Sentence.of(text), label) for n, (text, label) in enumerate(texts)])


def test_the_control_task_of_labelled_texts_gives_each_text_a_label(loaded: LoadedModel, tmp_path: Path) -> None:
    corpus = labelled_texts()
    data = gather(loaded, corpus, Discovery("tense").gathering(match_sites(loaded, ())))
    rows = Rows.of(data.samples["encoder"], data.contrast)
    control = control_labels(rows, 0)
    assert len(np.unique(rows.types)) == len(rows.y) == len(corpus)
    assert 0.3 < (control == rows.y).mean() < 0.7
    assert len(np.unique(control)) == 2
    probe = discover(loaded, corpus, Discovery("tense", "probeless", top=10)).evidence["probe"]["encoder"]
    assert probe["accuracy"] > 0.8
    assert probe["selectivity"] > 0.15
    store = extract_to_store(loaded, corpus, Extraction(match_sites(loaded, ()), ("sentence",)), tmp_path / "store")
    assert (next(store.blocks()).types != 0).all()


@pytest.mark.parametrize("method", ["mean-difference", "probeless", "layer-conductance"])
def test_a_ranking_that_prefers_no_neuron_is_refused(loaded: LoadedModel, corpus: Corpus, method: str) -> None:
    """Such as where a layer does nothing at all: the set would be neurons 0, 1, 2, …"""
    model = copy.deepcopy(loaded.model)
    layer = model.get_encoder().layers[0].fc1
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    silent = replace(loaded, model=model, sites=sites_of(model))
    with pytest.raises(BadInput, match=f"{method}: all 64 neurons have the same score"):
        discover(silent, corpus, Discovery("tense", method, sites=("encoder.0.ffn",), examples=4))
