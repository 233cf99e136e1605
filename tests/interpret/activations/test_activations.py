import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.control.text.pieces import encode
from neurodial.interpret.activations.accumulators import (
    Collector,
    LabelStatistics,
    PairedTokens,
    paired_pieces,
    stream,
)
from neurodial.interpret.activations.blocks import Block, join_blocks
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.corpora.readers import open_corpus

ENCODER, DECODER, FFN = Site.parse("encoder.1.resid"), Site.parse("decoder.1.resid"), Site.parse("encoder.0.ffn")
CLASSES = ("none", "present", "past")


@pytest.fixture(scope="module")
def corpus(pairs_spec: str) -> Corpus:
    return open_corpus(pairs_spec)


def gathered(loaded: LoadedModel, examples: Any, plan: Extraction, stack: str = "encoder") -> Block:
    return join_blocks([b for b in extract(loaded, examples, CLASSES, plan) if b.stack == stack])


def row_of(block: Block, example: int, word: int) -> int:
    return int(np.flatnonzero((block.examples == example) & (block.words == word))[0])


@torch.inference_mode()
def solo_encoder(loaded: LoadedModel, text: str) -> np.ndarray:
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
    states: np.ndarray = loaded.model.get_encoder()(input_ids=ids).last_hidden_state[0].numpy()
    return states


def test_batched_pieces_are_what_a_solo_run_computes(loaded: LoadedModel, corpus: Corpus) -> None:
    block = gathered(loaded, corpus, Extraction((ENCODER, FFN), ("piece",), batch_tokens=256, window=64))
    assert block.values[FFN].shape[1] == 64
    for example in list(corpus)[::40]:
        rows = block.values[ENCODER][block.examples == example.number]
        assert rows == pytest.approx(solo_encoder(loaded, example.source.text), abs=1e-4)
    specials = block.words == -1
    assert (block.labels[specials] == 0).all()
    assert specials.sum() == len(corpus)


@pytest.mark.parametrize("how", ["first", "last", "mean"])
def test_words_are_aggregated_from_their_pieces(loaded: LoadedModel, corpus: Corpus, how: Any) -> None:
    examples = list(corpus)[:8]
    block = gathered(loaded, examples, Extraction((ENCODER,), words=how))
    for example in examples:
        states = solo_encoder(loaded, example.source.text)
        pieces = encode(loaded.tokenizer, example.source, max_length=64).pieces
        for word, places in enumerate(pieces):
            expected = {"first": states[places[0]], "last": states[places[-1]], "mean": states[[*places]].mean(axis=0)}
            row = row_of(block, example.number, word)
            assert block.values[ENCODER][row] == pytest.approx(expected[how], abs=1e-4)
            assert CLASSES[block.labels[row]] == example.source.labels[word]
            assert block.pairs[row] == example.pair


@pytest.mark.parametrize("how", ["mean", "last", "max"])
def test_sentences(loaded: LoadedModel, corpus: Corpus, how: Any) -> None:
    examples = list(corpus)[:6]
    block = gathered(loaded, examples, Extraction((ENCODER,), ("sentence",), sentences=how))
    assert len(block) == 6
    for example in examples:
        states = solo_encoder(loaded, example.source.text)[:-1]  # without the end token
        expected = {"mean": states.mean(axis=0), "last": states[-1], "max": states.max(axis=0)}[how]
        row = row_of(block, example.number, -1)
        assert block.values[ENCODER][row] == pytest.approx(expected, abs=1e-4)
        assert CLASSES[block.labels[row]] == example.label


@pytest.mark.parametrize("align", ["predicted", "input"])
def test_the_decoder_is_aligned_to_target_tokens(loaded: LoadedModel, corpus: Corpus, align: Any) -> None:
    examples = list(corpus)[:4]
    plan = Extraction((ENCODER, DECODER), ("word",), align=align)
    block = gathered(loaded, examples, plan, "decoder")
    for example in examples:
        assert example.target is not None
        target = encode(loaded.tokenizer, example.target, max_length=64, target=True)
        source = torch.tensor([loaded.tokenizer(example.source.text)["input_ids"]])
        start = loaded.model.config.decoder_start_token_id
        with torch.inference_mode():
            states = loaded.model.base_model(
                input_ids=source, decoder_input_ids=torch.tensor([[start, *target.ids[:-1]]])
            ).last_hidden_state[0]
        for word, places in enumerate(target.pieces):
            at = places[-1] + (align == "input")
            row = row_of(block, example.number, word)
            assert block.values[DECODER][row] == pytest.approx(states[at].numpy(), abs=1e-4)
            assert CLASSES[block.labels[row]] == example.target.labels[word]


def test_the_decoder_runs_on_the_models_own_output(loaded: LoadedModel, corpus: Corpus) -> None:
    examples = [replace(example, target=None) for example in list(corpus)[:4]]
    block = gathered(loaded, examples, Extraction((DECODER,), ("piece",), decoder="own"), "decoder")
    assert set(block.examples.tolist()) == {0, 1, 2, 3}
    with pytest.raises(BadInput, match="no target side"):
        gathered(loaded, examples, Extraction((DECODER,)), "decoder")


def test_unknown_sites_and_values_that_are_not_numbers(loaded: LoadedModel, corpus: Corpus) -> None:
    with pytest.raises(AddressError, match="encoder"):
        gathered(loaded, corpus, Extraction((Site.parse("encoder.7.resid"),)))
    broken = replace(loaded, model=copy.deepcopy(loaded.model))
    broken = LoadedModel.wrap(broken.model, loaded.tokenizer)
    with torch.no_grad():
        next(broken.model.get_encoder().layers[1].parameters()).fill_(float("nan"))
    with pytest.raises(BadInput, match=r"encoder\.1\.resid: the activations of example \d+ hold NaN"):
        gathered(broken, list(corpus)[:2], Extraction((ENCODER,)))


def test_statistics_and_samples_do_not_depend_on_batches(loaded: LoadedModel, corpus: Corpus) -> None:
    results = []
    for batch_tokens, window in ((128, 16), (4096, 1000)):
        statistics, sample = LabelStatistics(CLASSES), Collector(max_rows=120, seed=1)
        stream(loaded, corpus, Extraction((ENCODER,), batch_tokens=batch_tokens, window=window), [statistics, sample])
        results.append((statistics.moments[ENCODER], sample.rows("encoder")))
    (first, one), (second, two) = results
    assert first.count.tolist() == second.count.tolist()
    assert first.mean == pytest.approx(second.mean, abs=1e-5)
    assert one is not None
    assert two is not None
    assert one.examples.tolist() == two.examples.tolist()
    assert one.words.tolist() == two.words.tolist()
    assert len(one) <= 120
    assert len(np.unique(one.labels)) == 3
    assert one.values[ENCODER] == pytest.approx(two.values[ENCODER], abs=1e-4)


def test_only_the_training_part_is_counted(loaded: LoadedModel, corpus: Corpus) -> None:
    statistics = LabelStatistics(CLASSES)
    stream(loaded, corpus, Extraction((ENCODER,)), [statistics])
    train = [e for e in corpus if e.split == "train"]
    assert statistics.moments[ENCODER].count[1] == sum(e.source.labels.count("present") for e in train)
    doubled = LabelStatistics(CLASSES).merge(statistics).merge(statistics)
    assert doubled.moments[ENCODER].count.tolist() == (2 * statistics.moments[ENCODER].count).tolist()


def test_paired_tokens_meet(loaded: LoadedModel, corpus: Corpus) -> None:
    pairs = PairedTokens((ENCODER,))
    stream(loaded, corpus, Extraction((ENCODER,), ("piece",), batch_tokens=128, window=16), [pairs])
    a, b = [], []
    examples = [e for e in corpus if e.split == "train"]
    for present, past in zip(examples[::2], examples[1::2], strict=True):
        states = [solo_encoder(loaded, e.source.text) for e in (present, past)]
        tokens = [encode(loaded.tokenizer, e.source, max_length=64) for e in (present, past)]
        rows = [
            [(place, word) for place, word in enumerate(t.words) if word >= 0 and e.source.labels[word] != "none"]
            for t, e in zip(tokens, (present, past), strict=True)
        ]
        for i, j in paired_pieces(np.array([w for _, w in rows[0]]), np.array([w for _, w in rows[1]])):
            a.append(states[0][rows[0][i][0]])
            b.append(states[1][rows[1][j][0]])
    moments = pairs.moments[ENCODER]
    assert moments.count == len(a)
    assert moments.mean[0] == pytest.approx(np.mean(a, axis=0), abs=1e-4)
    assert moments.mean[1] == pytest.approx(np.mean(b, axis=0), abs=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        ([3], [3], [(0, 0)]),
        ([3, 3], [3, 3], [(0, 0), (1, 1)]),
        ([3, 3], [3], [(0, 0), (1, 0)]),
        ([3, 3], [3, 3, 3], [(0, 0), (1, 2)]),
        ([1, 4, 4], [1, 4], [(0, 0), (1, 1), (2, 1)]),
        ([], [], []),
    ],
)
def test_pieces_of_differing_words(first: list[int], second: list[int], pairs: list[tuple[int, int]]) -> None:
    assert paired_pieces(np.array(first), np.array(second)) == pairs


def test_long_texts_are_cut_to_the_model(loaded: LoadedModel) -> None:
    long = Example(0, Sentence.of("She opens the door. " * 100, other="none"))
    block = gathered(loaded, [long], Extraction((ENCODER,), ("piece",)))
    assert len(block) == 64
