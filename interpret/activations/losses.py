"""A model's own loss on a corpus, batch by batch: of gradients for scores, and of perplexity.

| Family | Loss |
|---|---|
| decoder-only | of each token, given those before it |
| encoder–decoder | of each token of the target, teacher-forced; without targets, of the model's own greedy output |
| encoder-only | of the tokens that are masked, one in seven, drawn by the seed |
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch.nn import functional

from neurodial.control.addresses import Stack
from neurodial.control.errors import CorpusError, ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.text.batching import by_length, padded
from neurodial.interpret.activations.generation import generate_ids
from neurodial.interpret.corpora.corpus import Corpus, Example

IGNORED = -100
MASKED_SHARE = 0.15
WINDOW = 1024  # examples that are sorted by length together
BATCH_TOKENS = 2048  # padded tokens of a batch


@dataclass(frozen=True)
class TokenRow:
    """Token ids of one example, special tokens included; `target` of encoder–decoders alone."""

    source: tuple[int, ...]
    target: tuple[int, ...] = ()

    def longest(self) -> int:
        """Tokens of its longer side."""
        return max(len(self.source), len(self.target))


@dataclass(frozen=True)
class LossBatch:
    """What a forward pass needs, and what it should predict.

    Attributes:
        inputs: arguments of the model's forward.
        labels: (rows, tokens) the id that the logits of a position should predict, `IGNORED` where there is none.
        masks: stack → (rows, tokens), true at real tokens.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    masks: dict[Stack, torch.Tensor]


def loss_batches(
    loaded: LoadedModel,
    corpus: Corpus,
    *,
    decoder: Literal["reference", "own"] | None = None,
    seed: int = 0,
) -> Iterator[tuple[LossBatch, int]]:
    """Batches of similar length, in an order that corpus and seed decide, each with its number of examples.

    Args:
        loaded: the model.
        corpus: any text.
        decoder: see `interpret.activations.calibration.decoder_input`, which chooses it.
        seed: of the masks.

    Raises:
        ModelError: for an encoder-only model whose tokenizer has no mask token.
        CorpusError: if an example has no target and targets are wanted.
    """
    draw = torch.Generator().manual_seed(seed)
    for window in _windows(corpus):
        rows = token_rows(loaded, window, decoder)
        for batch in by_length(rows, TokenRow.longest, BATCH_TOKENS):
            yield loss_batch(loaded, batch, draw), len(batch)


def why_no_loss(loaded: LoadedModel) -> str:
    """Why a model predicts no tokens, and so has no loss; empty if it has one."""
    if loaded.model.get_output_embeddings() is None:
        return f"{type(loaded.model).__name__} has no language-model head"
    if loaded.family == "encoder-only" and loaded.tokenizer.mask_token_id is None:
        return "its tokenizer has no mask token"
    return ""


def _windows(corpus: Corpus) -> Iterator[list[Example]]:
    rows = iter(corpus)
    while window := list(islice(rows, WINDOW)):
        yield window


def token_rows(
    loaded: LoadedModel, examples: Sequence[Example], decoder: Literal["reference", "own"] | None
) -> list[TokenRow]:
    """The token ids of examples, cut to the model's length."""
    options: dict[str, Any] = {"truncation": True, "max_length": loaded.max_length}
    texts = [example.source.text for example in examples]
    sources = [tuple(ids) for ids in loaded.tokenizer(texts, **options)["input_ids"]]
    if loaded.family != "encoder-decoder":
        return [TokenRow(source) for source in sources]
    if decoder == "own":
        targets = generate_ids(loaded, texts, max_new_tokens=loaded.max_length - 1)
    else:
        missing = next((e for e in examples if e.target is None), None)
        if missing is not None:
            raise CorpusError(f"example {missing.number} ({missing.source.text!r}) has no target side")
        wanted = [example.target.text for example in examples if example.target]
        targets = loaded.tokenizer(text_target=wanted, **options)["input_ids"]
    return [TokenRow(source, tuple(target)) for source, target in zip(sources, targets, strict=True)]


def loss_batch(loaded: LoadedModel, rows: Sequence[TokenRow], draw: torch.Generator) -> LossBatch:
    """Pads rows on the right and sets what they should predict."""
    fill, device = loaded.tokenizer.pad_token_id or 0, loaded.model.device
    ids, real = padded([row.source for row in rows], fill, device)
    inputs, mask = {"input_ids": ids, "attention_mask": real}, real.bool()
    if loaded.family == "encoder-decoder":
        start = int(loaded.model.config.decoder_start_token_id)
        shifted, decoder_real = padded([(start, *row.target[:-1]) for row in rows], fill, device)
        targets, _ = padded([row.target for row in rows], fill, device)
        inputs |= {"decoder_input_ids": shifted, "decoder_attention_mask": decoder_real}
        decoder_mask = decoder_real.bool()
        return LossBatch(
            inputs, targets.masked_fill(~decoder_mask, IGNORED), {"encoder": mask, "decoder": decoder_mask}
        )
    if loaded.family == "decoder-only":
        labels = torch.full_like(ids, IGNORED)
        labels[:, :-1] = ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)
        return LossBatch(inputs, labels, {"decoder": mask})
    hidden = _masked_places(loaded, ids, mask, draw)
    masked = ids.masked_fill(hidden, int(loaded.tokenizer.mask_token_id))
    return LossBatch(inputs | {"input_ids": masked}, ids.masked_fill(~hidden, IGNORED), {"encoder": mask})


def _masked_places(loaded: LoadedModel, ids: torch.Tensor, mask: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """The ordinary tokens that are hidden: a share of each row, one at least."""
    if loaded.tokenizer.mask_token_id is None:
        raise ModelError(
            f"{loaded.name}: its tokenizer has no mask token, so that there is no loss to take",
            hint="scores by magnitude or activation need no loss",
        )
    special = torch.tensor(loaded.tokenizer.all_special_ids, device=ids.device)
    usual = mask & ~torch.isin(ids, special)
    chances = torch.rand(ids.shape, generator=draw).to(ids.device).masked_fill(~usual, 2.0)
    rank = chances.argsort(dim=1).argsort(dim=1)
    quota = (usual.sum(dim=1) * MASKED_SHARE).ceil().clamp(min=1)
    return usual & (rank < quota[:, None])


def summed_loss(loaded: LoadedModel, batch: LossBatch) -> tuple[torch.Tensor, int]:
    """Negative log-likelihood in nats, summed over the predicted tokens, and how many there are.

    Raises:
        ModelError: if the model has no language-model head.
    """
    logits, wanted = _predictions(loaded, batch)
    return functional.cross_entropy(logits, wanted, reduction="sum"), len(wanted)


def summed_log_odds(loaded: LoadedModel, batch: LossBatch) -> tuple[torch.Tensor, int]:
    """log(p / (1 − p)) of the predicted tokens, summed, and how many there are.

    Where the model is sure, the loss is flat and its gradient vanishes; the log-odds' does not.

    Raises:
        ModelError: if the model has no language-model head.
    """
    logits, wanted = _predictions(loaded, batch)
    chosen = logits.gather(1, wanted[:, None])
    others = logits.scatter(1, wanted[:, None], float("-inf")).logsumexp(dim=1)
    return (chosen[:, 0] - others).sum(), len(wanted)


def _predictions(loaded: LoadedModel, batch: LossBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """(predicted tokens, vocabulary) logits in float32 and the ids that they should predict."""
    model: Any = loaded.model
    uncached = {"use_cache": False} if loaded.family != "encoder-only" else {}
    logits = getattr(model(**batch.inputs, **uncached), "logits", None)
    if logits is None or logits.shape[:2] != batch.labels.shape:
        raise ModelError(
            f"{loaded.name}: {type(model).__name__} has no language-model head to take a loss from",
            hint="scores by magnitude or activation need no loss",
        )
    predicted = batch.labels != IGNORED
    return logits[predicted].float(), batch.labels[predicted]
