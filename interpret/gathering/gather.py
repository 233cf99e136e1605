"""What one pass over a corpus gathers for discovery: statistics, rows, paired tokens, and read-outs trained on them."""

from typing import Any, Literal

import numpy as np

from neurodial.control.addresses import Site, Stack
from neurodial.control.artifacts.neuron_set import NONE_CLASS, ReadOut
from neurodial.control.errors import BadInput, CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.accumulators import (
    Collector,
    LabelStatistics,
    PairedTokens,
    QuantileStatistics,
    Sink,
    stream,
)
from neurodial.interpret.activations.blocks import Level
from neurodial.interpret.activations.extract import Extraction
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.activations.store import ActivationStore
from neurodial.interpret.common.executors import Executor
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.gathering.plan import GatheringPlan
from neurodial.interpret.gathering.readout import (
    MIN_ROWS_OF_A_CLASS,
    ReadOutSettings,
    calibrate,
    check_classes,
    fit_readout,
    score_readout,
)

Array = np.ndarray[Any, Any]
MIN_LABELLED = 8  # words (or sentences) of a label in the training part


def gather(
    loaded: LoadedModel,
    corpus: Corpus,
    plan: GatheringPlan,
    store: ActivationStore | None = None,
    executor: Executor | None = None,
) -> Gathered:
    """One pass over the corpus, here or by an executor, or over its stored activations, with all sinks."""
    classes = (NONE_CLASS, *corpus.labels)
    level: Literal["word", "sentence"] = "word" if corpus.word_labels else "sentence"
    statistics = LabelStatistics(classes, level=level)
    sketches = QuantileStatistics(classes, level=level)
    samples = Collector(level=level, max_rows=plan.max_rows, seed=plan.seed)
    positions = Collector(level="piece", max_rows=2 * plan.max_rows, seed=plan.seed)
    joined: Level = "piece" if corpus.word_labels else "sentence"
    pairs = PairedTokens(plan.sites, level=joined)
    held_out = PairedTokens(plan.sites, level=joined, splits=("dev", "test"))
    with_words = corpus.word_labels and (store is None or "piece" in store.levels)
    with_pairs = corpus.paired and len(corpus.labels) == 2 and (with_words or not corpus.word_labels)
    extraction = Extraction(
        plan.sites,
        (level, "piece") if with_words else (level,),
        words=plan.words,
        sentences=plan.sentences,
        decoder=plan.decoder,
    )
    sinks: list[Sink] = [
        statistics,
        samples,
        *([sketches] if plan.quantiles else []),
        *([positions] if with_words else []),
        *([pairs, held_out] if with_pairs else []),
    ]
    if store is None:
        left_out = stream(loaded, corpus, extraction, sinks, executor)
    else:
        store.check_plan(extraction)
        left_out = store.left_out
        left_out.warn(corpus.name)
        for block in store.blocks(plan.sites, extraction.levels):
            for sink in sinks:
                sink.add(block)
    stacks: list[Stack] = list(dict.fromkeys(site.stack for site in plan.sites))
    return Gathered(
        classes,
        statistics.moments,
        pairs.moments if with_pairs else {},
        held_out.moments if with_pairs else {},
        {stack: rows for stack in stacks if (rows := samples.rows(stack)) is not None},
        {stack: rows for stack in stacks if (rows := positions.rows(stack)) is not None} if with_words else {},
        sketches.moments,
        left_out,
    )


def check_labels(corpus: Corpus) -> None:
    """Refuses a corpus without labels to tell apart, as far as that is known before the model has read it.

    Raises:
        CorpusError: saying what it lacks.
    """
    if not corpus.labels:
        raise CorpusError(f"{corpus.name}: it has no labels", hint="give a labelled corpus or minimal pairs")
    if len(corpus.labels) == 1 and not corpus.word_labels:
        raise CorpusError(
            f"{corpus.name}: all sentences have the label {corpus.labels[0]!r}, nothing to contrast it with"
        )


def check_gathered(corpus: Corpus, data: Gathered) -> None:
    """Refuses too few labelled words.

    Raises:
        CorpusError: naming label and site.
    """
    if not data.moments:
        raise CorpusError(f"{corpus.name}: no labelled word could be found among the model's tokens")
    for site, moments in data.moments.items():
        if len(data.contrast) == 2 and 0 in data.contrast and not moments.count[0]:
            raise CorpusError(
                f"{corpus.name}: all words have the label {data.classes[1]!r}, nothing to contrast it with"
            )
        for number in data.contrast:
            if moments.count[number] < MIN_LABELLED:
                raise CorpusError(
                    f"{corpus.name}: only {moments.count[number]:.0f} training examples of {data.classes[number]!r} "
                    f"at {site}, at least {MIN_LABELLED} are needed",
                    hint="give a larger corpus, and check that its words align with the tokenizer",
                )


def train_readouts(
    data: Gathered, sites: tuple[Site, ...], settings: ReadOutSettings
) -> tuple[tuple[ReadOut, ...], dict[str, Any]]:
    """A calibrated read-out at each site, with its held-out scores; none where only sentences are labelled."""
    made: list[ReadOut] = []
    report: dict[str, Any] = {}
    for site in sites:
        rows = data.positions.get(site.stack)
        if rows is None or NONE_CLASS not in {data.classes[i] for i in np.unique(rows.labels)}:
            continue
        x, y = rows.values[site], rows.labels
        train, dev, test = (rows.splits == split for split in (0, 1, 2))
        _check_tokens(data, y[train])
        readout = fit_readout(site, x[train], y[train], data.classes, settings=settings)
        if settings.beta > 0 and _has_all(y[dev], data.classes):
            readout = calibrate(readout, x[dev], y[dev], beta=settings.beta)
        made.append(readout)
        report[str(site)] = score_readout(readout, x[test], y[test]) if test.any() else {"rows": 0}
    return tuple(made), report


def _check_tokens(data: Gathered, y: Array) -> None:
    """Refuses words without tokens of their own: a gate that was trained on their neighbours' would fire on those.

    Raises:
        CorpusError: naming the label.
    """
    for number in data.contrast:
        if number and (y == number).sum() < MIN_ROWS_OF_A_CLASS:
            raise CorpusError(
                f"of the words labelled {data.classes[number]!r}, {(y == number).sum()} have tokens of their own",
                hint="the model's tokenizer does not know these words: check that the corpus is in its language",
            )


def _has_all(y: Array, classes: tuple[str, ...]) -> bool:
    try:
        check_classes(y, classes)
    except BadInput:
        return False
    return True
