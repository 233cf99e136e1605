"""Streaming activations: any corpus in constant memory, several sites and both stacks in one pass.

Examples are read through a bounded window, sorted by length inside it and run in padded batches; each batch becomes
blocks of rows (tokens, words or sentences) that are handed on and forgotten.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch

from neurodial.control.addresses import Site, Stack
from neurodial.control.errors import BadInput
from neurodial.control.models.capture import capture
from neurodial.control.models.loading import LoadedModel
from neurodial.control.text.batching import by_length, padded
from neurodial.control.text.pieces import NO_WORD, Encoded, encode
from neurodial.control.text.pooling import Pooling, SentencePooling, WordPooling, sentence_places, word_places
from neurodial.interpret.activations.blocks import Block, Level, labelled_rows
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.corpora.corpus import Example, Sentence, label_differences

Array = np.ndarray[Any, Any]
PADDING = 0.2  # share of a batch's tokens


@dataclass(frozen=True)
class Extraction:
    """What to extract, and how.

    Attributes:
        sites: in any order, of one or both stacks.
        levels: kinds of rows: every token (`piece`), every word, every sentence.
        words: how a word's pieces become one row: `first`, `last` or `mean`.
        sentences: how a sentence's pieces become one row: `mean`, `last` or `max`.
        decoder: in encoder–decoder models, what the decoder is run on: the corpus's target side (`reference`) or the
            model's own greedy output (`own`).
        align: which decoder position belongs to a target token: the one that predicts it, or the one that reads it.
        batch_tokens: padded tokens of a batch.
        window: examples that are sorted by length together.
    """

    sites: tuple[Site, ...]
    levels: tuple[Level, ...] = ("word",)
    words: WordPooling = "last"
    sentences: SentencePooling = "mean"
    decoder: Literal["reference", "own"] = "reference"
    align: Literal["predicted", "input"] = "predicted"
    batch_tokens: int = 2048
    window: int = 1024

    def stack_sites(self, stack: Stack) -> tuple[Site, ...]:
        """The sites of one stack."""
        return tuple(site for site in self.sites if site.stack == stack)


@dataclass(frozen=True)
class _Item:
    """An example with its tokens."""

    example: Example
    source: Encoded
    target: Encoded | None

    def is_aligned(self, left_out: LeftOut) -> bool:
        """Whether words and tokens could be matched; what lacks rows is counted."""
        sides = (self.source,) if self.target is None else (self.source, self.target)
        counted = [left_out.add(self.example.number, side) for side in sides]
        return all(counted)


def extract(
    loaded: LoadedModel,
    examples: Iterable[Example],
    classes: tuple[str, ...],
    plan: Extraction,
    left_out: LeftOut | None = None,
) -> Iterator[Block]:
    """Runs the model over examples and yields the activations of its sites.

    Args:
        loaded: the model.
        examples: read once, in order; the two sentences of a minimal pair next to each other.
        classes: `none` first, then the labels; a row's label is its number here.
        plan: sites, levels and aggregation.
        left_out: counts the texts and words that have no rows.

    Raises:
        AddressError: for a site that the model has not.
        BadInput: if an activation is NaN or infinite, or the decoder needs a target that the corpus has not.
    """
    for window in windows(examples, plan.window):
        yield from extract_window(loaded, window, classes, plan, left_out)


def extract_window(
    loaded: LoadedModel,
    window: list[Example],
    classes: tuple[str, ...],
    plan: Extraction,
    left_out: LeftOut | None = None,
) -> Iterator[Block]:
    """The blocks of examples that are sorted by length together; see `extract`."""
    for site in plan.sites:
        loaded.sites.info(site)
    if plan.decoder == "own" and _wants_decoder(loaded, plan):
        window = _with_own_output(loaded, window, plan)
    count = LeftOut() if left_out is None else left_out
    items = [item for example in window if (item := _item(loaded, example, plan)).is_aligned(count)]
    for batch in by_length(items, _length, plan.batch_tokens, most_padding=PADDING):
        groups = [
            group
            for stack in ("encoder", "decoder")
            if plan.stack_sites(stack)
            for level in plan.levels
            if (group := _group(loaded, stack, level, batch, plan)).rows
        ]
        _forward(loaded, batch, plan, groups)
        for group in groups:
            owners = [(batch[row].example, word) for row, word, _ in group.rows]
            yield labelled_rows(group.stack, group.level, owners, group.values, classes, on_target=group.on_target)


def _wants_decoder(loaded: LoadedModel, plan: Extraction) -> bool:
    return loaded.family == "encoder-decoder" and bool(plan.stack_sites("decoder"))


def windows(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    """Lists of about `size` examples that never part a pair."""
    window: list[Example] = []
    for _, unit in groupby(examples, key=lambda e: ("pair", e.pair) if e.pair is not None else ("one", e.number)):
        window += unit
        if len(window) >= size:
            yield window
            window = []
    if window:
        yield window


def _length(item: _Item) -> int:
    return max(len(item.source.ids), len(item.target.ids) if item.target else 0)


def _item(loaded: LoadedModel, example: Example, plan: Extraction) -> _Item:
    limit = loaded.max_length
    source = encode(loaded.tokenizer, example.source, max_length=limit)
    if not _wants_decoder(loaded, plan):
        return _Item(example, source, None)
    if example.target is None:
        raise BadInput(
            f"example {example.number} ({example.source.text!r}) has no target side for the decoder to run on",
            hint="give the corpus a target column, or run the decoder on the model's own output",
        )
    return _Item(example, source, encode(loaded.tokenizer, example.target, max_length=limit, target=True))


@torch.inference_mode()
def _forward(loaded: LoadedModel, batch: list[_Item], plan: Extraction, groups: "list[_Group]") -> None:
    """Runs the model over a batch and gives every group of rows its values."""
    model = loaded.model

    def keep(site: Site, x: torch.Tensor) -> None:
        for group in groups:
            if group.stack == site.stack:
                group.values[site] = group.pooling(x).cpu().numpy()

    fill = loaded.tokenizer.pad_token_id or 0
    ids, mask = padded([item.source.ids for item in batch], fill, model.device)
    with capture(model, plan.sites, loaded.sites, keep):
        if _wants_decoder(loaded, plan):
            start = int(model.config.decoder_start_token_id)
            shifted = [(start, *(item.target.ids[:-1] if item.target else ())) for item in batch]
            decoder_ids, decoder_mask = padded(shifted, fill, model.device)
            model.base_model(
                input_ids=ids, attention_mask=mask,
                decoder_input_ids=decoder_ids, decoder_attention_mask=decoder_mask, use_cache=False,
            )  # fmt: skip
        elif loaded.family == "encoder-decoder":
            model.get_encoder()(input_ids=ids, attention_mask=mask)
        else:
            model.base_model(input_ids=ids, attention_mask=mask)


@dataclass(frozen=True)
class _Group:
    """The rows of one stack and level of a batch.

    Attributes:
        rows: row of the batch, word, token positions.
        how: what becomes of several positions.
        values: site → (rows, width), filled by the forward pass.
    """

    stack: Stack
    level: Level
    on_target: bool
    how: str
    rows: list[tuple[int, int, list[int]]]
    values: dict[Site, Array] = field(default_factory=dict)

    @cached_property
    def pooling(self) -> Pooling:
        """Of each row's positions."""
        return Pooling([(row, places) for row, _, places in self.rows], self.how)


def _group(loaded: LoadedModel, stack: Stack, level: Level, batch: list[_Item], plan: Extraction) -> _Group:
    """Which tokens make up the rows of a batch."""
    on_target = stack == "decoder" and loaded.family == "encoder-decoder"
    rows: list[tuple[int, int, list[int]]] = []
    for row, item in enumerate(batch):
        tokens = item.target if on_target and item.target else item.source
        for word, places in _places(tokens, level, plan):
            shifted = [p + 1 for p in places] if on_target and plan.align == "input" else places
            if shifted := [p for p in shifted if p < len(tokens.ids)]:
                rows.append((row, word, shifted))
    how = plan.sentences if level == "sentence" else plan.words if level == "word" else "last"
    return _Group(stack, level, on_target, how, rows)


def _places(tokens: Encoded, level: Level, plan: Extraction) -> Iterator[tuple[int, list[int]]]:
    """(word, token positions) of each row of a sentence."""
    if level == "piece":
        for place, word in enumerate(tokens.words):  # an unknown token is that of any unknown word
            yield NO_WORD if word in tokens.unknown else word, [place]
    elif level == "word":
        yield from word_places(tokens, plan.words)
    else:
        yield -1, sentence_places(tokens, plan.sentences)


@torch.inference_mode()
def _with_own_output(loaded: LoadedModel, window: list[Example], plan: Extraction) -> list[Example]:
    """The examples with the model's greedy output as target side, words that differ within a pair labelled."""
    limit = loaded.max_length
    texts: dict[int, str] = {}
    items = [_Item(e, encode(loaded.tokenizer, e.source, max_length=limit), None) for e in window]
    for batch in by_length(items, _length, plan.batch_tokens, most_padding=PADDING):
        ids, mask = padded([i.source.ids for i in batch], loaded.tokenizer.pad_token_id or 0, loaded.model.device)
        generate: Any = loaded.model.generate
        out = generate(input_ids=ids, attention_mask=mask, num_beams=1, do_sample=False, max_new_tokens=limit - 1)
        for item, text in zip(batch, loaded.tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
            texts[item.example.number] = text
    made: list[Example] = []
    for _, unit in groupby(window, key=lambda e: ("pair", e.pair) if e.pair is not None else ("one", e.number)):
        both = list(unit)
        if len(both) == 2 and both[0].label and both[1].label:
            targets = label_differences((both[0].label, both[1].label), (texts[both[0].number], texts[both[1].number]))
            made += [replace(e, target=t) for e, t in zip(both, targets, strict=True)]
        else:
            made += [replace(e, target=Sentence.of(texts[e.number])) for e in both]
    return made
