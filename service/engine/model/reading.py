"""Reading texts without writing any, each in one pass, in batches of similar lengths: states, activations, labels."""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from neurodial.control.addresses import Site, Stack
from neurodial.control.artifacts.neuron_set import ReadOut
from neurodial.control.distilled.head import Head
from neurodial.control.models.capture import capture
from neurodial.control.models.loading import LoadedModel
from neurodial.control.runtime.batch import BatchController
from neurodial.control.text.batching import padded
from neurodial.service.engine.model.columns import of_stack
from neurodial.service.engine.model.scoring import rows_at_once, scored
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import Outcome, not_a_number
from neurodial.service.engine.text import TokenTexts
from neurodial.service.engine.types import Classified, ReadOutScores, SiteActivations

Pieces = Callable[[Items[int]], tuple[str, ...]]
Tokens = Items[tuple[int, ...]]
Features = np.ndarray[Any, Any]

_WIDEST = 1.25  # a batch's longest text, as a multiple of its shortest; beyond, padding costs more than a second pass
_SPARE = 8


class Reader:
    """Runs texts through the encoder where there is one, else through the decoder. Padding takes no part.

    An encoder–decoder's decoder runs too where a request has a target: position by position it reads the start token
    and the target's tokens, which it would have written (forced decoding).

    Args:
        loaded: the model.
        controls: of its rows.
        pieces: tokens as the vocabulary writes them.
        texts: what tokens add to a text.
        head: of a distilled model: its classifier.
    """

    def __init__(
        self, loaded: LoadedModel, controls: BatchController, pieces: Pieces, texts: TokenTexts, head: Head | None
    ) -> None:
        self._loaded, self._head = loaded, head
        self._model: Any = loaded.model
        self._controls = controls
        self._pieces, self._texts = pieces, texts
        self._sites = loaded.sites
        self._has_encoder = loaded.family == "encoder-decoder"
        self._stack: Stack = loaded.sites.stacks[0]
        self._pad = loaded.pad_token_id or 0

    def read(self, sequences: Items[Sequence], slots: Items[int]) -> list[Outcome]:
        """What each sequence asks for: its states, its neurons' activations, labels, or its tokens' probabilities."""
        outcomes = self._score(sequences, slots)
        for with_target in (False, True):
            places = [
                i
                for i, s in enumerate(sequences)
                if bool(s.prepared.target_ids) is with_target and s.request.task != "score"
            ]
            for bucket in buckets([sequences[i].num_read for i in places]):
                chosen = [places[i] for i in bucket]
                read = self._pass([sequences[i] for i in chosen], [slots[i] for i in chosen])
                outcomes |= dict(zip(chosen, read, strict=True))
        return [outcomes[i] for i in range(len(sequences))]

    def _score(self, sequences: Items[Sequence], slots: Items[int]) -> dict[int, Outcome]:
        """Of those that ask for the probabilities of their own tokens, by their places."""
        places = [i for i, s in enumerate(sequences) if s.request.task == "score"]
        outcomes: dict[int, Outcome] = {}
        for bucket in buckets([sequences[i].num_read for i in places]):
            chosen = [places[i] for i in bucket]
            longest = max(sequences[i].num_read for i in chosen)
            step = rows_at_once(longest, self._model.config.get_text_config().vocab_size)
            for start in range(0, len(chosen), step):
                part = chosen[start : start + step]
                prompts = [sequences[i].prepared.prompt_ids for i in part]
                ids, mask = padded(prompts, self._pad, self._model.device, left=False)
                first = [1 - len(prompt) for prompt in prompts]
                self._begin(prompts, [slots[i] for i in part], mask, first, self._stack)
                logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                for row, i in enumerate(part):
                    outcomes[i] = scored(sequences[i], logits[row, : len(prompts[row])], self._texts)
        return outcomes

    def _pass(self, sequences: Items[Sequence], slots: Items[int]) -> list[Outcome]:
        prompts = [s.prepared.prompt_ids for s in sequences]
        targets = [s.prepared.target_ids for s in sequences if s.prepared.target_ids]
        sites = {part.site for s in sequences for part in (*(s.prepared.neurons or ()), *s.prepared.readouts)}
        readings = {row: s.prepared.reading for row, s in enumerate(sequences) if s.prepared.reading is not None}
        if self._head is not None and readings:
            sites |= set(self._head.sites)
        with capture(self._model, sites, self._sites) as recorded:
            states, mask = self._read_prompts(prompts, slots)
            if targets:
                self._read_targets(targets, slots, states, mask)
        pooled = _means(states, mask)
        kept = self._head.features(self._loaded, recorded, readings) if self._head is not None and readings else {}
        return [
            self._of_head(self._head, s, kept[row])
            if self._head is not None and row in kept
            else self._outcome(s, row, pooled[row], recorded)
            for row, s in enumerate(sequences)
        ]

    def _of_head(self, head: Head, sequence: Sequence, features: Features) -> Outcome:
        """What a classifier says of a text's (rows, neurons) features, or the features themselves."""
        if not np.isfinite(features).all():
            return Outcome(sequence, error=not_a_number(sequence))
        if sequence.request.task == "encode":
            mean = features.mean(axis=0) if len(features) else head.center
            return Outcome(sequence, end="stop", payload=tuple(mean.tolist()))
        reading = sequence.prepared.reading
        spans = reading.words if head.level == "word" else (None,)
        shares = head.probabilities(features).tolist()
        named = [tuple(zip(head.labels, row, strict=True)) for row in shares]
        classified = tuple(Classified(span, row) for span, row in zip(spans, named, strict=True))
        return Outcome(sequence, end="stop", payload=classified)

    def _read_prompts(self, prompts: Tokens, slots: Items[int]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = padded(prompts, self._pad, self._model.device, left=False)
        is_encoder = self._stack == "encoder"
        first = [-ids.shape[1] if is_encoder else 1 - len(prompt) for prompt in prompts]
        self._begin(prompts, slots, mask, first, self._stack)
        module = self._model.get_encoder() if self._has_encoder else self._model.base_model
        more = {} if is_encoder else {"use_cache": False}
        return module(input_ids=ids, attention_mask=mask, **more).last_hidden_state, mask

    def _read_targets(
        self, targets: Tokens, slots: Items[int], states: torch.Tensor, source_mask: torch.Tensor
    ) -> None:
        ids, mask = padded(targets, self._pad, self._model.device, left=False)
        self._begin(targets, slots, mask, [0] * len(targets), "decoder")
        encoded: Any = BaseModelOutput(last_hidden_state=states)
        self._model.base_model(
            encoder_outputs=encoded,
            attention_mask=source_mask,
            decoder_input_ids=ids,
            decoder_attention_mask=mask,
            use_cache=False,
        )

    def _begin(self, texts: Tokens, slots: Items[int], mask: torch.Tensor, first: Items[int], stack: Stack) -> None:
        width = mask.shape[1]
        valid = mask.bool() if min(len(text) for text in texts) < width else None
        self._controls.begin(slots, tokens=width, first_steps=first, valid=valid, stack=stack)

    def _outcome(
        self, sequence: Sequence, row: int, pooled: torch.Tensor, recorded: dict[Site, torch.Tensor]
    ) -> Outcome:
        if sequence.request.task == "encode":
            error = None if pooled.isfinite().all() else not_a_number(sequence)
            return Outcome(sequence, end="stop", error=error, payload=tuple(pooled.tolist()))
        prepared, found = sequence.prepared, []
        for stack in self._sites.stacks:
            columns = of_stack(prepared.neurons, stack)
            if not columns:
                continue
            ids = prepared.target_ids if stack == "decoder" and self._has_encoder else prepared.prompt_ids
            values = torch.stack([recorded[c.site][row, : len(ids), c.place] for c in columns], dim=1).float()
            if not values.isfinite().all():
                return Outcome(sequence, error=not_a_number(sequence))
            rows = tuple(tuple(numbers) for numbers in values.tolist())
            addresses = tuple(column.address for column in columns)
            seen = tuple(
                _scores(readout, recorded[readout.site][row, : len(ids)])
                for readout in prepared.readouts
                if readout.site.stack == stack
            )
            found.append(SiteActivations(stack, self._pieces(ids), tuple(ids), addresses, rows, seen))
        return Outcome(sequence, end="stop", payload=tuple(found))


def _scores(readout: ReadOut, states: torch.Tensor) -> ReadOutScores:
    """What a read-out says of a site's (tokens, width) values."""
    scores = states[:, readout.indices].float().cpu().numpy() @ readout.weights.T + readout.bias
    return ReadOutScores(str(readout.site), readout.classes, tuple(map(tuple, scores.tolist())))


def _means(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(rows, width): the mean over each text's tokens; what padding holds, NaN even, plays no part."""
    share = mask[:, :, None] / mask.sum(1)[:, None, None]
    return torch.where(mask[:, :, None].bool(), states.float(), 0.0).mul(share).sum(1)


def buckets(lengths: Items[int]) -> Iterator[list[int]]:
    """Places of texts that are read together, shortest first."""
    bucket: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if bucket and lengths[place] > _WIDEST * lengths[bucket[0]] + _SPARE:
            yield bucket
            bucket = []
        bucket.append(place)
    if bucket:
        yield bucket
