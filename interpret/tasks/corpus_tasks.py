"""Tasks from corpora: where a minimal pair or a fact lets a model choose between two words, and what it should choose.

| Corpus | Model | A row's input | Its score |
|---|---|---|---|
| minimal pairs | decoder-only | a sentence up to the last word that differs | log p(its word) − log p(the other's) |
| | encoder-only | a sentence with that word masked | the same |
| | encoder–decoder | a sentence, and its target up to where the two targets part | the same of the next token |
| facts | decoder-only, encoder-only | a statement up to its object, or with the object masked | log p(object) |

Of words of several tokens the first counts. Both sentences of a pair are rows, each the corrupted twin of the other
where they are as long. Where they agree up to the word that is asked for there is one row, whose score is that of the
last label over the first: it says which way the neurons push, and there is nothing to patch.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import BadInput, CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.text.batching import padded
from neurodial.interpret.activations.calibration import decoder_input
from neurodial.interpret.activations.generation import generate_ids
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence, Split, lot
from neurodial.interpret.tasks.tasks import Batch, Prompt, asked, prompt_of

BATCH = 32


@dataclass(frozen=True)
class CorpusTask:
    """A task and what is known of its rows.

    Attributes:
        clean: the task.
        corrupted: batches of the same shapes with the twins' inputs; empty unless twins were asked for.
        facts: number of the fact of each row, in the task's order; empty unless the corpus is one of facts.
        score: what a row's score is, for people.
        skipped: why examples were left out → how many.
    """

    clean: tuple[Batch, ...]
    corrupted: tuple[Batch, ...]
    facts: tuple[int, ...]
    score: str
    skipped: dict[str, int]

    @property
    def rows(self) -> int:
        """Rows of all batches."""
        return sum(batch.rows for batch in self.clean)


@dataclass(frozen=True)
class _Row:
    """A prompt, what the decoder of an encoder–decoder has read, the twin's input, and the fact."""

    prompt: Prompt
    target: tuple[int, ...] = ()
    twin: tuple[int, ...] | None = None
    fact: int = -1

    @property
    def lengths(self) -> tuple[int, int]:
        return len(self.prompt.ids), len(self.target)


def corpus_task(
    loaded: LoadedModel,
    corpus: Corpus,
    *,
    examples: int = 50,
    seed: int = 0,
    decoder: Literal["reference", "own"] | None = None,
    twins: bool = False,
    splits: tuple[Split, ...] = ("train",),
) -> CorpusTask:
    """Makes a task of a corpus's minimal pairs or facts; see the module's table.

    Args:
        loaded: the model.
        corpus: minimal pairs or facts.
        examples: pairs or facts, chosen by a hash of the seed and their text.
        seed: of the choice.
        decoder: targets of an encoder–decoder: the corpus's, or what the model itself writes; by default the corpus's
            where it has any.
        twins: only rows that have a corrupted twin, with `corrupted` filled.
        splits: where examples are taken from; the rest stays for evidence.

    Raises:
        CorpusError: if the corpus holds neither pairs nor facts, or no example of it can be asked of the model.
    """
    units = _chosen(corpus, examples, seed, splits)
    if not units or (units[0][0].fact is None and not (corpus.paired and corpus.word_labels)):
        raise CorpusError(
            f"{corpus.name}: it asks nothing of a model: causal methods need minimal pairs or facts",
            hint="use pairs:FILE, grammar:agreement, grammar:tense or facts:FILE",
        )
    labels, skipped = corpus.labels, Counter[str]()
    if units[0][0].fact is not None:
        rows, score = _fact_rows(loaded, units, skipped), "log p(object)"
    elif loaded.family == "encoder-decoder":
        rows = _target_rows(loaded, units, decoder_input(loaded, corpus, decoder) == "own", skipped)
        score = "log p(own target's token) − log p(other target's token)"
    else:
        rows = _word_rows(loaded, units, skipped)
        score = "log p(own word) − log p(other word)"
    if rows and rows[0].prompt.foil is not None and all(row.twin is None for row in rows):
        score = f"log p({labels[-1]}) − log p({labels[0]})"
    if twins:
        kept = [row for row in rows if row.twin is not None and len(row.twin) == len(row.prompt.ids)]
        skipped["no twin of the same length"] += len(rows) - len(kept)
        rows = kept
    short = [row for row in rows if max(row.lengths) <= loaded.max_length]
    skipped["too long for the model"] += len(rows) - len(short)
    skipped = +skipped
    rows = short
    if not rows:
        why = ", ".join(f"{reason} ({count})" for reason, count in skipped.most_common(3))
        raise CorpusError(
            f"{corpus.name}: none of {len(units)} examples can be asked of {loaded.name}: {why}",
            hint="patching needs pairs that differ before the word that is asked for" if twins else None,
        )
    ordered = sorted(rows, key=lambda row: row.lengths)
    parts = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
    return CorpusTask(
        clean=tuple(_batch(loaded, part) for part in parts),
        corrupted=tuple(_batch(loaded, [_swapped(row) for row in part]) for part in parts) if twins else (),
        facts=tuple(row.fact for row in ordered) if ordered[0].fact >= 0 else (),
        score=score,
        skipped=dict(skipped),
    )


def _chosen(corpus: Corpus, count: int, seed: int, splits: tuple[Split, ...]) -> list[list[Example]]:
    """Whole pairs and facts."""
    if count < 1:
        raise BadInput(f"examples={count}: at least one is needed", param="examples")
    units = (list(members) for _, members in groupby(corpus, key=lambda example: example.unit))
    wanted = (unit for unit in units if unit[0].split in splits)

    def draw(unit: Sequence[Example]) -> tuple[bytes, int]:
        return lot(seed, unit[0].key or unit[0].source.text), unit[0].number

    return sorted(heapq.nsmallest(count, wanted, key=draw), key=lambda unit: unit[0].number)


def _word_rows(loaded: LoadedModel, units: list[list[Example]], skipped: Counter[str]) -> list[_Row]:
    rows: list[_Row] = []
    for unit in units:
        spans = [_last_labelled(example.source) for example in unit]
        if len(unit) != 2 or None in spans:
            skipped["no differing word"] += 1
            continue
        (before, word), (other_before, other) = (_cut(loaded, e.source, a) for e, a in zip(unit, spans, strict=True))
        try:
            first = prompt_of(loaded, before, word, other)
            second = prompt_of(loaded, other_before, other, word)
        except BadInput as error:
            skipped[_reason(error)] += 1
            continue
        if tuple(first.ids) == tuple(second.ids):
            rows.append(_Row(second))
        else:
            rows += [_Row(first, twin=tuple(second.ids)), _Row(second, twin=tuple(first.ids))]
    return rows


def _last_labelled(sentence: Sentence) -> tuple[int, int] | None:
    """The span of the last word that has a label."""
    spans = _labelled_spans(sentence)
    return spans[-1] if spans else None


def _labelled_spans(sentence: Sentence) -> list[tuple[int, int]]:
    both = zip(sentence.words, sentence.labels, strict=True)
    return [span for span, label in both if label not in (None, NONE_CLASS)]


def _cut(loaded: LoadedModel, sentence: Sentence, span: tuple[int, int] | None) -> tuple[str, str]:
    """The prompt before a span, or with the mask in its place, and the span with the space before it."""
    start, end = span or (0, 0)
    space = " " if sentence.text[:start].endswith(" ") else ""
    answer = space + sentence.text[start:end]
    if loaded.family == "encoder-only":
        return f"{sentence.text[:start]}{loaded.tokenizer.mask_token}{sentence.text[end:]}", answer
    return sentence.text[:start].rstrip(" "), answer


def _reason(error: BadInput) -> str:
    return "both words begin with the same token" if "same token" in error.message else "the prompt is not whole tokens"


def _target_rows(loaded: LoadedModel, units: list[list[Example]], own: bool, skipped: Counter[str]) -> list[_Row]:
    flat = [example for unit in units for example in unit]
    limit = loaded.max_length
    options = {"truncation": True, "max_length": limit}
    sources = iter(loaded.tokenizer([e.source.text for e in flat], **options)["input_ids"])
    if own:
        written = generate_ids(loaded, [e.source.text for e in flat], max_new_tokens=limit - 1)
    else:
        texts = [e.target.text if e.target else "" for e in flat]
        written = loaded.tokenizer(text_target=texts, **options)["input_ids"]
    targets, start = iter(written), int(loaded.model.config.decoder_start_token_id)
    rows: list[_Row] = []
    for unit in units:
        pairs = [(tuple(next(sources)), tuple(next(targets))) for _ in unit]
        if len(pairs) != 2:
            skipped["no differing word"] += 1
            continue
        (a, a_out), (b, b_out) = pairs
        at = next((i for i, (x, y) in enumerate(zip(a_out, b_out, strict=False)) if x != y), None)
        if at is None:
            skipped["the targets are the same"] += 1
            continue
        read = (start, *a_out[:at])
        rows += [
            _Row(Prompt(a, at, a_out[at], b_out[at]), read, twin=b),
            _Row(Prompt(b, at, b_out[at], a_out[at]), read, twin=a),
        ]
    return rows


def _fact_rows(loaded: LoadedModel, units: list[list[Example]], skipped: Counter[str]) -> list[_Row]:
    if loaded.family == "encoder-decoder":
        raise CorpusError("facts are asked of decoder-only and encoder-only models, not of one that translates")
    rows: list[_Row] = []
    for number, unit in enumerate(units):
        for example in unit:
            spans = [
                s for s, label in zip(example.source.words, example.source.labels, strict=True) if label != NONE_CLASS
            ]
            span = (spans[0][0], spans[-1][1])
            if loaded.family == "decoder-only" and any(c.isalnum() for c in example.source.text[span[1] :]):
                skipped["the object does not come last"] += 1
                continue
            before, answer = _cut(loaded, example.source, span)
            try:
                rows.append(_Row(prompt_of(loaded, before, answer, None), fact=number))
            except BadInput as error:
                skipped[_reason(error)] += 1
    return rows


def _swapped(row: _Row) -> _Row:
    return replace(row, prompt=replace(row.prompt, ids=row.twin or ()))


def _batch(loaded: LoadedModel, rows: list[_Row]) -> Batch:
    """Rows padded on the right."""
    fill, device = loaded.pad_token_id or 0, loaded.model.device
    ids, mask = padded([row.prompt.ids for row in rows], fill, device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if loaded.family == "encoder-decoder":
        ids, mask = padded([row.target for row in rows], fill, device)
        inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return asked([row.prompt for row in rows], inputs, ids.shape[1])
