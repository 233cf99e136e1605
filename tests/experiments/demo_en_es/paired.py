"""The tense corpus made of the demo's training sentences, and how its paired words differ at every neuron of a site."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.accumulators import PairedTokens, stream
from neurodial.interpret.activations.extract import Extraction
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from tests.experiments.demo_en_es.corpora import TensePair, tense_pairs
from tests.experiments.demo_en_es.english_tense import Span

LABELS = ("present", "past")
Differences = dict[Site, dict[str, np.ndarray[Any, Any]]]


def tense_corpus(data: Path, limit: int | None = None) -> Corpus:
    """Minimal pairs of the training sentences; finite verbs, and the infinitives that *do* carries, are labelled."""
    pairs = tense_pairs(data)
    pairs.sort(key=lambda p: (len(p.text["present"]), p.text["present"]))
    chosen = pairs if limit is None else [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:limit]]
    examples = [example for number, pair in enumerate(chosen) for example in _examples(number, pair)]
    return Corpus.of("tatoeba_en_es.train, tense moved by rule", examples, labels=LABELS)


def _examples(number: int, pair: TensePair) -> list[Example]:
    return [
        Example(
            2 * number + side,
            _labelled(pair.text[label], pair.spans[label], label),
            label,
            number,
            None,
            pair.text[LABELS[0]],
        )
        for side, label in enumerate(LABELS)
    ]


def _labelled(text: str, spans: Sequence[Span], label: str) -> Sentence:
    words = Sentence.of(text).words
    marked = {i: label for i, (start, end) in enumerate(words) if any(start < b and end > a for a, b in spans)}
    return Sentence.of(text, marked, other=NONE_CLASS)


def paired_differences(loaded: LoadedModel, data: Path, sites: Sequence[Site], limit: int = 2000) -> Differences:
    """Site → label → (width,) mean difference of paired verbs towards that label, over training pairs."""
    sink = PairedTokens(sites)
    stream(loaded, tense_corpus(data, limit), Extraction(tuple(sites), ("piece",)), [sink])
    moved = {site: moments.mean[1] - moments.mean[0] for site, moments in sink.moments.items()}
    return {s: {"past": d.astype(np.float32), "present": (-d).astype(np.float32)} for s, d in moved.items()}
