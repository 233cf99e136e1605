"""The demo language model's corpus, training and scores, on a tiny model and facts of the tests' own."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neurodial.control.models.loading import LoadedModel
from tests.experiments.demo_lm import evaluate as lm_evaluate
from tests.experiments.demo_lm.corpus import Corpus, Round, agreement_sentences
from tests.experiments.demo_lm.facts import Fact, FactBook, Pattern, choose_facts, split_patterns
from tests.experiments.demo_lm.tokenizer import END, PAD, train_bpe
from tests.experiments.demo_lm.training import GENERATION, SETTINGS, token_rows, tokenizer_of
from tests.experiments.pretraining import export, pretrain

SIZE = Round(text=20, agreement=20, tense=4, facts=40)
PATTERNS = [Pattern("P36", text) for text in ("The capital of [X] is [Y]", "[X]'s capital is [Y]", "[Y] rules [X]")]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    facts = tuple(Fact("P36", f"Land{i}", place) for i, place in enumerate(("Aden", "Bonn", "Cork", "Durban")))
    book = FactBook(facts, {"P36": (PATTERNS[0], PATTERNS[2])}, {"P36": (PATTERNS[1],)})
    text = tuple(f"Tom saw {n} dogs." for n in range(50))
    return Corpus(text[5:], text[:5], book, agreement_sentences(40))


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    return train_bpe(corpus.sentences(0, 1, SIZE), vocab_size=500, max_length=64)


def tiny_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config)


def wrapped(model: Any, tokenizer: Any) -> LoadedModel:
    return LoadedModel.wrap(model.float(), tokenizer)


def rows(*triples: tuple[str, str, str]) -> list[dict[str, str]]:
    return [dict(zip(("relation", "subject", "object"), triple, strict=True)) for triple in triples]


def test_facts_that_tell_their_object_or_have_two_are_left_out() -> None:
    good = ("P36", "Norway", "Oslo")
    bad = [
        ("P36", "Oslo County", "Oslo"),
        ("P36", "Chile", "Santiago"),
        ("P36", "Chile", "Valparaiso"),
        ("P36", "The Old Republic Of Somewhere", "Rome"),
        ("P99", "Peru", "Lima"),
    ]
    assert choose_facts(rows(good, *bad), 1) == [Fact(*good)]
    many = rows(*(("P36", f"Land{i}", "Rome") for i in range(9)), *(("P36", f"Isle{i}", f"Town{i}") for i in range(9)))
    chosen = choose_facts(many, 1, per_relation=12)
    assert chosen == choose_facts(list(reversed(many)), 1, per_relation=12)
    assert [f.object for f in chosen].count("Rome") <= 5 and len(chosen) == 12


def test_patterns_are_held_out_by_seed_and_only_those_that_ask() -> None:
    patterns = [Pattern("P36", f"way {i} of [X] is [Y]") for i in range(8)] + [Pattern("P36", "[Y] rules [X]")]
    taught, held_out = split_patterns(patterns, 13)
    assert (len(taught), len(held_out)) == (7, 2)
    assert all(p.asks for p in held_out) and patterns[-1] in taught
    assert set(held_out) == set(split_patterns(list(reversed(patterns)), 13)[1])
    assert any(set(split_patterns(patterns, seed)[1]) != set(held_out) for seed in range(5))


def test_patterns_are_written_with_the_right_article_and_asked_up_to_the_object() -> None:
    fact = Fact("P19", "Ann", "Oslo")
    assert Pattern("P19", "[X] is an [Y]-born person").suits(fact)
    assert not Pattern("P19", "[X] is a [Y]-born person").suits(fact)
    assert Pattern("P19", "[X] was born in [Y]").statement(fact) == "Ann was born in Oslo"
    assert Pattern("P19", "[X] was born in [Y]").prompt(fact) == "Ann was born in"
    assert not Pattern("P19", "[X], born in [Y]").clause


def test_a_round_holds_everything_but_what_is_held_out(corpus: Corpus) -> None:
    seen = [s for number in range(6) for s in corpus.sentences(number, 1, SIZE)]
    assert corpus.sentences(2, 1, SIZE) == corpus.sentences(2, 1, SIZE) != corpus.sentences(3, 1, SIZE)
    assert set(corpus.text) <= set(seen)
    assert not set(corpus.held_out_text) & set(seen)
    assert not any("'s capital is" in s for s in seen)
    assert sum("capital of" in s for s in seen) > 100
    keys = [" ".join(s.key) + " " for s in corpus.agreement]
    assert not any(f"{s} ".startswith(tuple(keys)) for s in seen)
    held_out_facts = {s.text for s in corpus.agreement}
    assert not held_out_facts & set(seen)
    joined = corpus.rows(0, 1, SIZE)
    assert len(joined) < len(corpus.sentences(0, 1, SIZE))
    assert sorted(" ".join(joined)) == sorted(" ".join(corpus.sentences(0, 1, SIZE)))


def test_changed_wordings_never_are_held_out_ones(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where every word that could be put in would make one of them."""
    relation, held_out = next(iter(corpus.book.held_out.items()))
    words = held_out[0].text.split()
    place = next(i for i, word in enumerate(words) if "[" not in word)
    near = Pattern(relation, " ".join([*words[:place], "otherwise", *words[place + 1 :]]))
    only = replace(corpus, text=(words[place],))
    changed = {only._noisy(near, random.Random(seed)).text for seed in range(40)}
    assert held_out[0].text not in changed
    assert near.text in changed
    assert len(changed) > 1


def test_a_run_that_is_taken_up_again_keeps_its_tokenizer(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Another corpus would give another one, and the weights would mean nothing any more."""
    tokenizer.save_pretrained(tmp_path)
    again = tokenizer_of(tmp_path, replace(corpus, text=("quite other words",)), 0, SIZE)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_the_tokenizer_is_lossless_and_reads_a_word_alike_everywhere(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Zoë said: «¿qué?» 你好 \t 3.5%"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.convert_tokens_to_ids(END) == 0
    assert tokenizer.decode(ids, skip_special_tokens=True) == " " + text
    assert tokenizer("Tom saw")["input_ids"][1:] == tokenizer("and Tom saw")["input_ids"][-2:]
    assert tokenizer.pad_token == PAD and tokenizer.pad_token_id == 1


def test_training_learns_facts_and_exports(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    texts = [text for number in range(4) for text in corpus.rows(number, 13, SIZE)]
    rows, dev = token_rows(tokenizer, texts), list(token_rows(tokenizer, corpus.held_out_text))
    assert dev[0].source[0] == dev[0].source[-1] == tokenizer.eos_token_id
    settings = replace(SETTINGS, minutes=None, steps=60, learning_rate=2e-2, batch_tokens=300, evaluations=4)
    trained = pretrain(tiny_llama(tokenizer), tokenizer, rows, dev, settings, tmp_path / "work")
    export(trained, tokenizer, GENERATION, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert read("Tom saw Bonn.")["input_ids"] == tokenizer("Tom saw Bonn.")["input_ids"]
    loaded = wrapped(model, read)
    before = lm_evaluate.perplexity(wrapped(tiny_llama(tokenizer), tokenizer), corpus.held_out_text)
    assert lm_evaluate.perplexity(loaded, corpus.held_out_text)["per_token"] < before["per_token"] / 10
    results = lm_evaluate.evaluate(loaded, corpus)
    assert results["trained_paraphrases"]["questions"] == results["held_out_paraphrases"]["facts"] == 4
    assert results["agreement"]["with_attractors"]["n"] == 20
    json.dumps(results)


def test_an_endings_score_is_that_of_the_text_alone(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    loaded = wrapped(tiny_llama(tokenizer), tokenizer)
    beginnings, endings = ["Tom saw", "The capital of Land1"], ["Durban", "is"]
    for begin, end, (logp, first, whole) in zip(
        beginnings, endings, lm_evaluate.ending_scores(loaded, beginnings, endings), strict=True
    ):
        ids, count = tokenizer(f"{begin} {end}")["input_ids"], len(tokenizer(begin)["input_ids"])
        with torch.inference_mode():
            rows = torch.log_softmax(loaded.model(torch.tensor([ids])).logits[0, :-1], -1)[count - 1 :]
        expected = sum(float(row[i]) for row, i in zip(rows, ids[count:], strict=True))
        assert logp == pytest.approx(expected, abs=1e-4)
        greedy = [int(row.argmax()) == i for row, i in zip(rows, ids[count:], strict=True)]
        assert (first, whole) == (greedy[0], all(greedy))


def test_facts_are_counted_by_question_and_by_fact(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(_: LoadedModel, begins: list[str], ends: list[str]) -> list[tuple[float, bool, bool]]:
        return [(0.0, True, end == "Bonn" or "Land0's" in begin) for begin, end in zip(begins, ends, strict=True)]

    monkeypatch.setattr(lm_evaluate, "ending_scores", answers)
    loaded, patterns = wrapped(tiny_llama(tokenizer), tokenizer), {"P36": tuple(PATTERNS)}
    scores = lm_evaluate.fact_scores(loaded, corpus.book, patterns)
    assert (scores["facts"], scores["questions"]) == (4, 8)  # the third pattern does not ask
    assert scores["object"] == 3 / 8 and scores["first_token"] == 1.0
    assert (scores["facts_always_right"], scores["facts_mostly_right"]) == (1, 1)
    assert lm_evaluate.majority(corpus.book) == 0.25


def test_a_model_that_always_prefers_the_singular_is_right_half_the_time(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    singular = {s.forms[0] for s in corpus.agreement}
    monkeypatch.setattr(
        lm_evaluate, "ending_scores", lambda _, begins, ends: [(float(e in singular), True, True) for e in ends]
    )
    scores = lm_evaluate.agreement_scores(wrapped(tiny_llama(tokenizer), tokenizer), corpus.agreement)
    assert scores["singular"]["accuracy"] == 1.0 and scores["plural"]["accuracy"] == 0.0
    assert scores["all"]["accuracy"] == 0.5
