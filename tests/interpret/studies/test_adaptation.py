"""Adaptation: what belongs to a neuron, room that is made and filled, what may learn in each way, jobs that go on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.controls import parse_controls
from neurodial.control.errors import BadInput, CorpusError, FingerprintError, NeurodialError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from neurodial.control.surgery.pruning.choosing import choose_kept
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.control.surgery.saving import save_pruned
from neurodial.interpret.common.translation_scores import bleu, bleu_of, sentence_scores
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.rankings.ranking_file import Ranking
from neurodial.interpret.studies.adaptation import adapter as adapter_module
from neurodial.interpret.studies.adaptation.adapter import Adapter
from neurodial.interpret.studies.adaptation.expansion import expand, freed_neurons
from neurodial.interpret.studies.adaptation.job import Job, parts_of, run_job
from neurodial.interpret.studies.adaptation.masks import holding, share_trained, training_only, unit_sites, weights_of
from neurodial.interpret.studies.adaptation.measuring import Measured, better_by, intervals
from neurodial.interpret.studies.adaptation.report import table, to_html
from neurodial.interpret.studies.adaptation.sets import remeasured
from neurodial.interpret.studies.adaptation.settings import STRATEGIES, AdaptationSettings, Protected, Texts
from neurodial.interpret.studies.adaptation.summary import summary
from neurodial.interpret.training.settings import Settings
from neurodial.interpret.training.trainer import train
from tests.tiny import inputs_for, load_tiny

SHORT = Settings(steps=3, learning_rate=5e-3, batch_tokens=128, evaluations=1)
SITE = Site.parse("encoder.1.ffn")


def corpus(name: str, verbs: tuple[str, ...], things: tuple[str, ...] = ("door", "book", "house")) -> Corpus:
    """Sentences of the tiny model's words; what is learnt is to turn them round."""
    texts = [f"{who} {verb} the {thing}." for who in ("She", "He", "The boy") for verb in verbs for thing in things]
    return Corpus.of(
        name,
        [
            Example(i, Sentence.of(t), target=Sentence.of(" ".join(reversed(t[:-1].split())) + "."))
            for i, t in enumerate(texts)
        ],
    )


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts(
        corpus("general", ("opens", "sees", "likes")), corpus("general dev", ("closes",)),
        corpus("domain", ("opened", "saw", "liked")), corpus("domain dev", ("closed",)),
    )  # fmt: skip


def how(**changes: Any) -> AdaptationSettings:
    return replace(AdaptationSettings(SHORT, dict.fromkeys(STRATEGIES, 5e-3), replace(SHORT, hidden=1.0)), **changes)


@pytest.mark.parametrize("name", ["marian", "llama", "gpt2", "phi3", "t5-gated", "falcon-new", "bert"])
def test_without_its_weights_a_neuron_is_as_if_pruned(name: str) -> None:
    """The marked weights are the neuron's own: without them the model computes what it does with the neuron at zero."""
    loaded = load_tiny(name)
    info = [i for i in loaded.sites.sites.values() if i.site.kind == "attn"][-1]
    size, group = info.head_dim or 1, (info.num_heads or 1) // (info.num_kv_heads or 1)
    ffn = next(i for i in loaded.sites.sites.values() if i.site.kind == "ffn")
    chosen = {ffn.site: (3, 7), info.site: tuple(range(group * size))}  # heads that share keys go together
    inputs = inputs_for(loaded.model)
    addresses = [f"{ffn.site}[3,7]", f"{info.site}[0-{group * size - 1}]"]
    pruning = compile_controls(loaded, parse_controls([{"neurons": a, "op": "prune"} for a in addresses]))
    with torch.no_grad():
        with controlled(loaded, [pruning, pruning]):
            expected = loaded.model(**inputs).logits
        plain = loaded.model(**inputs).logits
        for parameter_name, mark in weights_of(loaded, chosen).items():
            loaded.model.get_parameter(parameter_name)[mark] = 0.0
        emptied = loaded.model(**inputs).logits
    assert torch.allclose(emptied, expected, atol=1e-5)
    assert not torch.allclose(emptied, plain, atol=1e-3)


def test_residual_neurons_are_their_writers_norms_and_readers(loaded: LoadedModel) -> None:
    found = weights_of(loaded, {Site.parse("encoder.0.resid"): (5,), Site.parse("encoder.1.resid"): (6,)})
    first = {name.removeprefix("model.encoder.layers.") for name in found if ".encoder.layers." in name}
    writes = {"self_attn.out_proj.weight", "self_attn.out_proj.bias", "fc2.weight", "fc2.bias"}
    writes |= {f"{norm}_layer_norm.{part}" for norm in ("self_attn", "final") for part in ("weight", "bias")}
    reads = {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "fc1.weight"}
    assert first == {f"0.{name}" for name in writes} | {f"1.{name}" for name in writes | reads}
    assert {name for name in found if "decoder" in name} == {
        f"model.decoder.layers.{layer}.encoder_attn.{part}_proj.weight" for layer in (0, 1) for part in "kv"
    }
    assert found["model.encoder.layers.0.fc2.weight"][5].all()
    assert int(found["model.encoder.layers.0.fc2.weight"].sum()) == 64
    assert found["model.encoder.layers.1.fc1.weight"][:, 5].all()
    with pytest.raises(BadInput, match="cannot be held"):
        weights_of(loaded, {Site.parse("encoder.embed"): (1,)})


def test_masks_hold_and_train(loaded: LoadedModel) -> None:
    everything = {site: range(loaded.sites.info(site).width) for site in unit_sites(loaded)}
    held = holding(loaded, {SITE: (1, 2)}, train_shared=False)
    assert not held["model.shared.weight"].any()
    assert not held["model.encoder.layers.1.final_layer_norm.weight"].any()
    assert held["model.encoder.layers.1.fc1.weight"][:, 0].nonzero().flatten().tolist() == [0, *range(3, 64)]
    assert "model.shared.weight" not in holding(loaded, {SITE: (1, 2)}, train_shared=True)
    assert share_trained(loaded, holding(loaded, everything, train_shared=False)) == 0.0
    alone = training_only(loaded, {SITE: (1, 2)})
    assert sum(int(m.sum()) for m in alone.values()) == 2 * (32 + 1 + 32)
    assert share_trained(loaded, {}) == 1.0


@pytest.mark.parametrize("name", ["marian", "gpt2", "phi3", "t5-gated", "bert"])
def test_an_expanded_model_computes_what_the_pruned_one_does(name: str) -> None:
    loaded = load_tiny(name)
    sites = [i for i in loaded.sites.sites.values() if i.site.kind == "ffn"]
    scores = {i.site: torch.arange(i.width).flip(0) % 11 for i in sites}
    pruned = prune_model(loaded, choose_kept(loaded, scores, 0.5))
    large = expand(loaded, pruned)
    inputs = inputs_for(loaded.model)
    with torch.no_grad():
        expected, found = (m(**inputs).logits for m in (pruned.model, large))
    assert torch.allclose(found, expected, atol=1e-5)
    assert {name: p.shape for name, p in large.named_parameters()} == {
        name: p.shape for name, p in loaded.model.named_parameters()
    }
    assert {len(places) for places in freed_neurons(loaded, pruned).values()} <= {20, 24}
    heads = prune_model(load_tiny("marian"), {Site.parse("encoder.0.attn"): [0, 1]}, mode="adaptive")
    with pytest.raises(BadInput, match="only FFN neurons are expanded"):
        expand(load_tiny("marian"), heads)


def changed(first: torch.nn.Module, second: torch.nn.Module) -> dict[str, torch.Tensor]:
    other = dict(second.named_parameters())
    return {n: p != other[n] for n, p in first.named_parameters() if not torch.equal(p, other[n])}


def test_each_way_changes_what_it_may(loaded: LoadedModel, texts: Texts) -> None:
    adapter = Adapter(loaded, texts, how())
    names = {name for name, _ in loaded.model.named_parameters() if "embed_positions" not in name}
    made = {way: adapter.adapt(way) for way in STRATEGIES}
    assert set(changed(loaded.model, made["full"].loaded.model)) == names
    moved = changed(loaded.model, made["lora"].loaded.model)
    assert set(moved) == {f"{name}.weight" for name in adapter_module.projections(loaded)}
    moved = changed(loaded.model, made["freeze-salient"].loaded.model)
    held = weights_of(loaded, adapter.held)
    assert moved
    assert not any((moved[name] & held[name]).any() for name in moved)
    assert not any("norm" in name or "shared" in name for name in moved)
    room = adapter.expanded
    freed = weights_of(room.loaded, room.freed)
    moved = changed(room.loaded.model, made["prune-expand"].loaded.model)
    assert set(moved) == set(freed)
    assert not any((moved[name] & ~freed[name]).any() for name in moved)
    assert {way: a.training["dev_loss"] < a.training["dev_loss_before"] for way, a in made.items()} == dict.fromkeys(
        STRATEGIES, True
    )
    steps = {way: a.loaded.lineage.steps[-1] for way, a in made.items() if a.loaded.lineage}
    assert all(step["kind"] == "adapted" and step["weights_changed"] for step in steps.values())
    assert len(steps["prune-expand"]["freed"]) == 4
    assert 0 < made["freeze-salient"].trained < made["full"].trained == 1.0
    seeds = [adapter.adapt("lora", seed).loaded.model for seed in (0, 1)]
    assert not changed(made["lora"].loaded.model, seeds[0])
    assert changed(*seeds)


def test_a_protected_set_is_held(loaded: LoadedModel, texts: Texts, pairs_spec: str) -> None:
    found = discover(loaded, open_corpus(pairs_spec), Discovery("tense", top=6, evidence="none"))
    protected = Protected(Ranking.of_set(found), 4)
    adapter = Adapter(loaded, texts, how(hold=0.0, train_shared=True, protected=protected))
    best = sorted(found.ranked(), key=lambda row: -abs(row[1]))[:4]
    assert adapter.held == {found.sites[0].site: tuple(sorted(int(row[0].split("[")[1][:-1]) for row in best))}
    moved = changed(loaded.model, adapter.adapt("freeze-salient").loaded.model)
    held = weights_of(loaded, adapter.held)
    assert not any((moved[name] & held[name]).any() for name in moved if name in held)
    assert "model.shared.weight" in moved
    other = Protected(replace(protected.ranking, fingerprint="sha256:" + "0" * 64))
    with pytest.raises(FingerprintError, match="was made for"):
        _ = Adapter(loaded, texts, how(protected=other)).held
    with pytest.raises(BadInput, match="no neuron is held"):
        _ = Adapter(loaded, texts, how(hold=0.0)).held


def job(texts: Texts, **changes: Any) -> Job:
    tests = corpus("general test", ("cooks",)), corpus("domain test", ("cooked",))
    return replace(Job(texts, *tests, how(), ("full",), (0, 1)), **changes)


def test_a_job_goes_on_where_it_was(
    loaded: LoadedModel, texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_job(loaded, job(texts, work=tmp_path / "whole"))
    calls: list[Any] = []

    def third_stops(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(adapter_module, "train", third_stops)
    with pytest.raises(KeyboardInterrupt):
        run_job(loaded, job(texts, work=tmp_path / "work"))
    resumed = run_job(loaded, job(texts, work=tmp_path / "work"))
    assert len(calls) == 3  # the first one is not made again
    for report in (whole.report, resumed.report):
        for run in report["runs"]:
            run["training"].pop("seconds")
    assert resumed.report["runs"] == whole.report["runs"]
    assert not changed(resumed.made["full"].model, whole.made["full"].model)
    with pytest.raises(BadInput, match="holds another adaptation, with other settings"):
        run_job(loaded, job(texts, work=tmp_path / "work", settings=how(hold=0.25)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="holds no adaptation"):
        run_job(loaded, job(texts, work=tmp_path / "mine"))


def test_the_report_says_what_was_gained_and_lost(loaded: LoadedModel, texts: Texts, pairs_spec: str) -> None:
    found = discover(loaded, open_corpus(pairs_spec), Discovery("tense", sites=("*.ffn",), top=40, evidence="none"))
    outcome = run_job(loaded, job(texts, strategies=("full", "prune-expand"), seeds=(0,), sets=(found,)))
    report = outcome.report
    assert json.loads(json.dumps(report)) == report
    fates = {run["way"]: run["sets"][0] for run in report["runs"]}
    assert fates["full"]["works"].startswith("as it is")
    assert fates["prune-expand"]["works"].startswith(f"no: {fates['prune-expand']['freed']} of its neurons were freed")
    assert fates["full"]["drift"] > 0
    headings, rows = table(report)
    assert headings[:3] == ["way", "weights that learnt", "gain, BLEU"]
    assert [row[0] for row in rows] == ["full fine-tuning", "prune, then expand"]
    assert "100 % of full" in rows[0][4]
    html = to_html({**report, "command": "neurodial adapt <here>"})
    assert "<svg" in html and "gain on the domain" in html
    assert "neurodial adapt &lt;here&gt;" in html
    assert report["corpora"]["domain, to test on"]["digest"] in json.dumps(report)
    again = remeasured(outcome.made["full"], found, open_corpus(pairs_spec))
    assert again.fingerprint == outcome.made["full"].fingerprint
    assert [a.indices.tolist() for a in again.sites] == [b.indices.tolist() for b in found.sites]
    assert not np.allclose(again.sites[0].overall_mean, found.sites[0].overall_mean)
    same = remeasured(loaded, found, open_corpus(pairs_spec))
    assert np.allclose(same.sites[0].overall_mean, found.sites[0].overall_mean)
    with pytest.raises(BadInput, match="labels are not those"):
        remeasured(loaded, found, open_corpus("grammar:number?count=60"))


def test_an_adapted_checkpoint_takes_the_bases_sets_where_that_is_allowed(
    loaded: LoadedModel, texts: Texts, pairs_spec: str, tmp_path: Path
) -> None:
    found = discover(loaded, open_corpus(pairs_spec), Discovery("tense", top=6, evidence="none"))
    child = Adapter(loaded, texts, how()).adapt("full").loaded
    save_pruned(child, tmp_path / "out")
    again = load_model(tmp_path / "out")
    assert again.fingerprint == child.fingerprint

    class One:
        def get(self, name: str, *args: Any) -> NeuronSet:
            return found

    with pytest.raises(FingerprintError, match="weights were changed"):
        found.check_model(again)
    assert found.check_model(again, allow_changed_weights=True)


def test_figures_and_their_intervals() -> None:
    outputs, perfect = ["the door is open", "he sees a house", "no"], ["the door is open", "he saw a house", "no"]
    references = [[text] for text in perfect]
    scores = [sentence_scores(o, references) for o in (outputs, perfect)]
    for sentences, text in zip(scores, (outputs, perfect), strict=True):
        assert bleu_of(sentences, np.arange(3)) == pytest.approx(bleu(text, references), abs=0.01)
    spans = intervals(Measured({}, scores[1]), Measured({}, scores[0]))
    assert spans["chrf"][0] >= 0
    assert spans["bleu"][1] > 0
    assert better_by({"bleu": 3.0, "loss": 1.0}, {"bleu": 1.0, "loss": 1.5}) == {"bleu": 2.0, "loss": 0.5}

    def run(way: str, gain: float, lost: float) -> dict[str, Any]:
        sides = {"domain": gain, "general": -lost}
        return {"way": way, "seed": 0, "trained": 1.0} | {
            n: {"better_by": {"chrf": v}, "better_by_95": {"chrf": [v - 1, v + 1]}} for n, v in sides.items()
        }

    rows = summary([run("full", 2.0, 4.0), run("full", 4.0, 6.0), run("lora", 2.7, 1.0)])
    assert rows["full"]["gain"]["chrf"]["mean"] == 3.0
    assert (rows["lora"]["gain_of_full"]["chrf"], rows["lora"]["forgetting_of_full"]["chrf"]) == (0.9, 0.2)
    assert rows["full"]["forgetting"]["chrf"]["intervals"] == [[3.0, 5.0], [5.0, 7.0]]


def test_what_cannot_be_adapted_is_refused(loaded: LoadedModel, texts: Texts) -> None:
    def refused(error: type[NeurodialError], message: str, work: Job) -> None:
        with pytest.raises(error, match=message):
            run_job(loaded, work)

    plain = Corpus.of("plain", [Example(0, Sentence.of("She opens the door."))])
    refused(CorpusError, "plain: it has no target side", job(replace(texts, domain=plain)))
    refused(BadInput, "there is no way 'half'", job(texts, strategies=("half",)))
    refused(BadInput, "free 0: not a share", job(texts, settings=how(free=0.0)))
    refused(BadInput, "hold 1: not a share", job(texts, settings=how(hold=1.0)))
    refused(BadInput, "rank 0: not a positive", job(texts, settings=how(rank=0)))
    refused(BadInput, "steps 0: not a positive", job(texts, settings=how(training=replace(SHORT, steps=0))))
    five = Corpus.of("five", list(texts.domain)[:5])
    with pytest.raises(CorpusError, match="five: 5 lines are too few for domain text"):
        parts_of("domain", five, None, limit=100, test_limit=100, seed=0)
    verbs, things = ("opens", "opened", "sees", "saw", "likes", "liked"), ("door", "book", "house", "boy", "cook")
    many = corpus("many", verbs, things)
    text, dev, test = parts_of("domain", many, None, limit=100, test_limit=100, seed=0)
    seen = [{example.source.text for example in part} for part in (text, dev, test)]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert sum(map(len, seen)) == 90


def test_a_model_that_was_pruned_before_is_expanded(loaded: LoadedModel, texts: Texts) -> None:
    scores = {i.site: torch.arange(i.width) % 11 for i in loaded.sites.sites.values() if i.site.kind == "ffn"}
    pruned = prune_model(loaded, choose_kept(loaded, scores, 0.5))
    adapter = Adapter(loaded, texts, how(pruned=pruned))
    made = adapter.adapt("prune-expand")
    assert made.freed == freed_neurons(loaded, pruned)
    room = adapter.expanded
    freed, moved = weights_of(room.loaded, room.freed), changed(room.loaded.model, made.loaded.model)
    assert moved
    assert not any((moved[name] & ~freed[name]).any() for name in moved)
    assert how(pruned=pruned).document("prune-expand", 0)["pruned"] == pruned.fingerprint
    with pytest.raises(BadInput, match="was pruned from nothing, not from"):
        Adapter(loaded, texts, how(pruned=loaded)).adapt("prune-expand")
