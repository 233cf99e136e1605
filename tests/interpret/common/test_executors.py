"""An executor changes where a pass over a corpus is run, and nothing else: not a byte of what comes of it."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.accumulators import (
    Collector,
    LabelStatistics,
    PairedTokens,
    QuantileStatistics,
    Sink,
    stream,
)
from neurodial.interpret.activations.calibration import TokenStatistics
from neurodial.interpret.activations.extract import Extraction
from neurodial.interpret.activations.storing import extract_to_store
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.gathering import gather
from tests.interpret.activations.test_store import contents

SITES = (Site.parse("encoder.1.resid"), Site.parse("decoder.0.ffn"))
PLAN = Extraction(SITES, ("word", "piece"), batch_tokens=256, window=30)
Items = Iterable[Any]


class Elsewhere:
    """Runs items in other processes' manner, the last one first; dies before one where a test wants it to."""

    def __init__(self, loaded: LoadedModel, dies_at: int | None = None) -> None:
        self.loaded, self.dies_at = loaded, dies_at
        self.handed_out = 0

    def map(self, function: Callable[[LoadedModel, Any], Any], items: Items) -> Iterator[Any]:
        sent = [pickle.dumps((function, item)) for item in items]
        self.handed_out += len(sent)
        for number, result in enumerate(reversed([self.ran(one) for one in reversed(sent)])):
            if number == self.dies_at:
                raise KeyboardInterrupt
            yield pickle.loads(result)

    def ran(self, sent: bytes) -> bytes:
        function, item = pickle.loads(sent)
        result = function(self.loaded, item)
        return pickle.dumps(list(result) if isinstance(result, Iterator) else result)


@pytest.fixture(scope="module")
def corpus(pairs_spec: str) -> Corpus:
    return open_corpus(pairs_spec)


def sinks(corpus: Corpus) -> list[Any]:
    classes = ("none", *corpus.labels)
    return [
        LabelStatistics(classes),
        LabelStatistics(classes, level="piece", splits=("dev", "test")),
        QuantileStatistics(classes),
        Collector(max_rows=60, seed=3),
        Collector(level="piece", labelled=False),
        PairedTokens(SITES),
        TokenStatistics("words"),
    ]


def numbers(sink: Any) -> list[bytes]:
    """Everything that a sink has gathered."""
    if isinstance(sink, Collector):
        found = [sink.rows(stack) for stack in ("encoder", "decoder")]
        return [pickle.dumps([(b.examples, b.words, b.labels, *b.values.values())]) for b in found if b is not None]
    states = [vars(moments) for moments in sink.moments.values()]
    return [np.asarray(value).tobytes() for state in states for value in state.values() if not isinstance(value, list)]


def test_every_sink_gathers_the_same_to_the_byte(loaded: LoadedModel, corpus: Corpus) -> None:
    here, there = sinks(corpus), sinks(corpus)
    executor = Elsewhere(loaded)
    stream(loaded, corpus, PLAN, here)
    stream(loaded, corpus, PLAN, there, executor)
    assert executor.handed_out == 9  # windows of 30 of 250 examples
    for mine, theirs in zip(here, there, strict=True):
        assert numbers(mine) == numbers(theirs), type(mine)
        assert numbers(mine)
        assert numbers(mine.fresh()) == []


def test_sinks_that_hold_something_keep_it(loaded: LoadedModel, corpus: Corpus) -> None:
    twice, once = (LabelStatistics(("none", *corpus.labels)) for _ in range(2))
    both: list[Sink] = [twice]
    for _ in range(2):
        stream(loaded, corpus, PLAN, both)
    stream(loaded, corpus, PLAN, [once])
    assert twice.moments[SITES[0]].count.tolist() == (2 * once.moments[SITES[0]].count).tolist()


@pytest.mark.parametrize("method", ["mean-difference", "linear-probe"])
def test_a_set_is_the_same_wherever_it_is_found(
    loaded: LoadedModel, corpus: Corpus, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "Extraction", partial(Extraction, window=30))
    job = Discovery("tense", method, sites=("encoder.1.resid", "encoder.0.ffn"), top=10, evidence="none")
    assert discover(loaded, corpus, job, executor=Elsewhere(loaded)).digest == discover(loaded, corpus, job).digest


def test_a_store_is_the_same_and_goes_on_where_it_was_stopped(
    loaded: LoadedModel, corpus: Corpus, tmp_path: Path
) -> None:
    extract_to_store(loaded, corpus, PLAN, tmp_path / "here", tokens="labelled")
    with pytest.raises(KeyboardInterrupt):
        extract_to_store(
            loaded, corpus, PLAN, tmp_path / "there", tokens="labelled", executor=Elsewhere(loaded, dies_at=4)
        )
    rest = Elsewhere(loaded)
    made = extract_to_store(loaded, corpus, PLAN, tmp_path / "there", tokens="labelled", executor=rest)
    assert made.complete
    assert rest.handed_out == 5
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
