"""Tasks from corpora, and the causal rankings that discovery makes of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurodial.control.errors import BadInput, CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.losses import IGNORED
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.causal import rank_causally
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.methods.causal import knowledge_attribution
from neurodial.interpret.methods.causal.ablation import Ablation
from neurodial.interpret.methods.registry import causal_methods, make_ranker
from neurodial.interpret.tasks.corpus_tasks import CorpusTask, corpus_task
from neurodial.interpret.tasks.interventions import plain_scores
from tests.word_tokenizer import MASK, tiny_with_text

PATCHING = ("activation-patching", "attribution-patching")


def written(folder: Path, rows: list[tuple[str, str]]) -> str:
    path = folder / "pairs.tsv"
    path.write_text("\n".join(["a\tb", *(f"{a}\t{b}" for a, b in rows)]) + "\n")
    return f"pairs:{path}?one=a&many=b"


@pytest.fixture(scope="module")
def agreement(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Subject and verb agree: w20 w40 against w21 w41, with other words between and behind."""
    rows = [(f"w20 w{n} w40 w{n + 1}", f"w21 w{n} w41 w{n + 1}") for n in range(3, 9)]
    rows += [(f"w20 w{n} w{m} w40", f"w21 w{n} w{m} w41") for n in range(3, 9) for m in range(3, 9) if n != m]
    return open_corpus(written(tmp_path_factory.mktemp("agreement"), rows))


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return tiny_with_text("llama")


def ids_of(task: CorpusTask) -> list[tuple[list[int], int, int]]:
    """Input, label and foil of every row."""
    rows = []
    for batch in task.clean:
        assert batch.foils is not None
        for n in range(batch.rows):
            kept = batch.inputs["input_ids"][n][batch.inputs["attention_mask"][n].bool()].tolist()
            (at,) = (batch.labels[n] != IGNORED).nonzero()[0].tolist()
            rows.append((kept, int(batch.labels[n, at]), int(batch.foils[n, at])))
    return rows


def test_a_causal_model_is_asked_for_the_last_word_that_differs(llama: LoadedModel, agreement: Corpus) -> None:
    task = corpus_task(llama, agreement, examples=100, splits=("train", "dev", "test"), twins=True)
    assert task.rows == 2 * 36
    for ids, label, foil in ids_of(task):
        assert (label, foil) == ((40, 41) if ids[0] == 20 else (41, 40))
        assert len(ids) in (2, 3)  # up to the verb, nothing behind it
    for clean, corrupt in zip(task.clean, task.corrupted, strict=True):
        a, b = clean.inputs["input_ids"], corrupt.inputs["input_ids"]
        assert (a[:, 0] + b[:, 0] == 41).all()
        assert (a[:, 1:] == b[:, 1:]).all()
        assert (clean.inputs["attention_mask"] == corrupt.inputs["attention_mask"]).all()


def test_sentences_that_agree_up_to_the_word_give_one_row(llama: LoadedModel, tmp_path: Path) -> None:
    corpus = open_corpus(written(tmp_path, [(f"w{n} w9 w30", f"w{n} w9 w31") for n in range(10, 30)]))
    task = corpus_task(llama, corpus, examples=50, splits=("train", "dev", "test"))
    assert task.rows == 20
    assert {row[1:] for row in ids_of(task)} == {(31, 30)}
    assert task.score == "log p(many) − log p(one)"
    with pytest.raises(CorpusError, match="no twin of the same length"):
        corpus_task(llama, corpus, twins=True)


def test_an_encoder_is_asked_at_the_mask(agreement: Corpus) -> None:
    bert = tiny_with_text("bert")
    for ids, label, foil in ids_of(corpus_task(bert, agreement, examples=10)):
        assert ids.count(MASK) == 1
        assert (label, foil) == ((40, 41) if 20 in ids else (41, 40))


def test_a_translating_model_is_asked_where_targets_part(loaded: LoadedModel, pairs_spec: str) -> None:
    corpus = open_corpus(pairs_spec)
    task = corpus_task(loaded, corpus, examples=12)
    targets = [loaded.tokenizer(text_target=e.target.text)["input_ids"] for e in corpus if e.target]
    for batch in task.clean:
        assert batch.foils is not None
        for n in range(batch.rows):
            at = int((batch.labels[n] != IGNORED).nonzero()[0])
            read = batch.inputs["decoder_input_ids"][n, 1 : at + 1].tolist()
            for token in (batch.labels[n, at], batch.foils[n, at]):
                assert [*read, int(token)] in [t[: at + 1] for t in targets]
    own = corpus_task(loaded, corpus, examples=12, decoder="own")
    assert own.rows + 2 * sum(own.skipped.values()) == 24


def test_the_same_seed_chooses_the_same_training_pairs(llama: LoadedModel, agreement: Corpus) -> None:
    first, again, other = (ids_of(corpus_task(llama, agreement, examples=8, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other
    train = {e.source.text for e in agreement if e.split == "train"}
    assert all(any(text.startswith(" ".join(f"w{i}" for i in ids)) for text in train) for ids, _, _ in first)


def test_corpora_that_ask_nothing(llama: LoadedModel, loaded: LoadedModel, agreement: Corpus, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tlabel\nw2 w3\tx\nw4 w5\ty\n")
    with pytest.raises(CorpusError, match="causal methods need minimal pairs or facts"):
        corpus_task(llama, open_corpus(f"sentences:{tmp_path / 'a.tsv'}"), splits=("train", "dev", "test"))
    with pytest.raises(BadInput, match="examples=0"):
        corpus_task(llama, agreement, examples=0)
    with pytest.raises(CorpusError, match="not of one that translates"):
        corpus_task(loaded, facts(tmp_path), splits=("train", "dev", "test"))
    first = open_corpus(written(tmp_path, [("w20 w3", "w21 w3"), ("w22 w3", "w23 w3")]))
    with pytest.raises(CorpusError, match=r"none of . examples can be asked of .*not whole tokens"):
        corpus_task(llama, first, splits=("train", "dev", "test"))


def facts(folder: Path, count: int = 12) -> Corpus:
    rows = "".join(f"P1\tw{n}\tw{n + 20}\n" for n in range(20, 20 + count))
    (folder / "facts.tsv").write_text("relation\tsubject\tobject\n" + rows)
    forms = ("w5 [X] w6 [Y]", "[X] w7 w8 [Y]", "w9 [X] [Y]", "[Y] w2 [X]")
    (folder / "patterns.tsv").write_text("relation\tpattern\n" + "".join(f"P1\t{form}\n" for form in forms))
    text = open_corpus(f"facts:{folder / 'facts.tsv'}?patterns={folder / 'patterns.tsv'}")
    return Corpus.of("facts", [_without_full_stop(example) for example in text], labels=text.labels)


def _without_full_stop(example: Any) -> Any:
    """The word tokenizer has no punctuation."""
    source = example.source
    return replace(
        example, source=replace(source, text=source.text[:-1], words=source.words[:-1], labels=source.labels[:-1])
    )


def test_facts_are_asked_in_every_pattern_that_ends_with_the_object(llama: LoadedModel, tmp_path: Path) -> None:
    task = corpus_task(llama, facts(tmp_path), examples=12, splits=("train", "dev", "test"))
    assert (task.rows, task.skipped) == (36, {"the object does not come last": 12})
    rows = [batch.row(n) for batch in task.clean for n in range(batch.rows)]
    by_fact: dict[int, set[int]] = {}
    for fact, row in zip(task.facts, rows, strict=True):
        by_fact.setdefault(fact, set()).add(int(row.labels.max()))
        assert int(row.labels.max()) - 20 in row.inputs["input_ids"].tolist()[0]
    assert sorted(map(len, by_fact.values())) == [1] * 12


@pytest.mark.parametrize("slug", sorted(causal_methods()))
def test_every_causal_method_makes_a_set_from_pairs(slug: str, llama: LoadedModel, agreement: Corpus) -> None:
    job = Discovery("number", slug, sites=("decoder.1.ffn",), top=5, examples=6, evidence="none")
    made = discover(llama, agreement, job)
    assert made.num_neurons == 5
    assert made.provenance["method"]["slug"] == slug
    assert made.provenance["neurons_ranked"] == 48
    task = made.evidence["task"]
    assert task["rows"] == 12 and 0 <= task["favoured"] <= 1
    assert discover(llama, agreement, job).digest == made.digest


@pytest.mark.parametrize("known", [True, False])
def test_knowledge_attribution_makes_a_set_from_facts(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.setattr(knowledge_attribution, "_answers", lambda loaded, row: known)
    corpus = facts(tmp_path, 19)
    made = discover(
        llama, corpus, Discovery("facts", "knowledge-attribution", {"prompts": 1}, top=6, examples=5, evidence="none")
    )
    assert made.labels == ("object",)
    assert {site.site.kind for site in made.sites} == {"ffn"}  # where none is named
    report = made.evidence["task"]["facts"]
    assert (report["facts"], report["known"]) == (5, 5 if known else 0)
    effects = {"suppress", "enhance", "suppress_others", "enhance_others"}
    assert effects & set(report) == (effects if known else set())


def test_the_planted_neuron_is_found_for_its_own_words_alone(agreement: Corpus, tmp_path: Path) -> None:
    model: Any = tiny_with_text("llama", initializer_range=0.05)
    with torch.no_grad():  # neuron 7 of the last FFN alone tells w40 from w41, and it hears whether w20 came
        network = model.model
        embed, head = network.model.embed_tokens.weight, network.lm_head.weight
        embed[:, 0] = 0.0
        embed[20, 0], embed[21, 0] = 3.0, -3.0
        direction = head[40] - head[41]
        for block in network.model.layers:
            for out in (block.mlp.down_proj.weight, block.self_attn.o_proj.weight):
                out -= torch.outer(direction, direction @ out) / direction.square().sum()
        network.model.layers[1].mlp.down_proj.weight[:, 7] = 3.0 * direction
    sites = tuple(site for site in model.sites.sites if str(site) == "decoder.1.ffn")
    scores = np.abs(rank_causally(Ablation(), model, agreement, sites)[0][sites[0]])
    assert scores.argmax() == 7
    assert scores[7] > 3 * np.delete(scores, 7).max()
    swapped = written(tmp_path, [(f"w20 w{n} w50", f"w21 w{n} w51") for n in range(3, 15)])
    others = np.abs(rank_causally(Ablation(), model, open_corpus(swapped), sites)[0][sites[0]])
    assert others[7] < 0.5 * scores[7]


def test_what_the_corpus_gives_cannot_be_set(llama: LoadedModel, agreement: Corpus) -> None:
    for slug, name in (("attribution-patching", "corrupted"), ("knowledge-attribution", "facts")):
        job = Discovery("x", slug, params={name: [1]}, sites=("decoder.1.ffn",), evidence="none")
        with pytest.raises(BadInput, match=f"{name} comes from the corpus"):
            discover(llama, agreement, job)
    with pytest.raises(BadInput, match="no method 'nothing' here"):
        make_ranker("nothing")


def test_patching_restores_what_the_report_says(llama: LoadedModel, agreement: Corpus) -> None:
    task = corpus_task(llama, agreement, examples=6, twins=True)
    site = next(s for s in llama.sites.sites if str(s) == "decoder.0.resid")
    truth, report = rank_causally(make_ranker(PATCHING[0]), llama, agreement, (site,), examples=6)  # type: ignore[arg-type]
    guess, _ = rank_causally(make_ranker(PATCHING[1]), llama, agreement, (site,), examples=6)  # type: ignore[arg-type]
    assert np.corrcoef(truth[site], guess[site])[0, 1] > 0.5
    scores = torch.cat([plain_scores(llama, batch) for batch in task.clean])
    assert report["mean"] == pytest.approx(float(scores.mean()), abs=1e-4)
