"""Beam search of one request, step by step; the same results as transformers' `generate`.

The rows of a search are its open beams. Every step looks at the best continuations of all of them: those that end
become finished outputs, the best of the others are the next open beams.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList

from neurodial.service.engine.model.sampling import ModelDefaults, decoder_input, processors
from neurodial.service.engine.sequence import Sequence

_NEVER = -1.0e9  # a score below any that counts


@dataclass(frozen=True)
class Beams:
    """The open beams after a step.

    Attributes:
        tokens: each one's latest token.
        parents: each one's row before the step.
    """

    tokens: list[int]
    parents: list[int]


class BeamSearch:
    """The search for one request."""

    def __init__(self, sequence: Sequence, defaults: ModelDefaults, device: torch.device) -> None:
        config, request = defaults.config, sequence.request
        self._width = request.num_beams
        self._prepared, self._max_tokens = sequence.prepared, sequence.prepared.max_tokens
        self._defaults, self._end_ids = defaults, sequence.prepared.end_ids
        self._num_candidates = max(2, 1 + len(self._end_ids)) * self._width
        self._changes: LogitsProcessorList = processors(sequence, defaults, device)
        penalty = request.length_penalty if request.length_penalty is not None else config.length_penalty
        self._length_penalty = 1.0 if penalty is None else float(penalty)
        self._early = config.early_stopping if config.early_stopping is not None else False
        start = list(decoder_input(sequence.prepared))
        self._num_start = len(start)
        self._open: list[list[int]] = [start] * self._width
        self._scores: list[float] = [0.0]  # the first step has one beam: all would be the same
        self._finished: list[tuple[float, list[int], bool]] = []  # best first, each with whether its end was forced
        self._are_cut: list[bool] = []  # of the open beams, at the step that forces an end
        self._can_improve = True
        self.is_done = False

    @property
    def best(self) -> list[int]:
        """The tokens of the best output so far."""
        return self._finished[0][1] if self._finished else self._open[0][self._num_start :]

    @property
    def others(self) -> list[list[int]]:
        """The tokens of the other outputs, best first."""
        return [tokens for _, tokens, _ in self._finished[1:]]

    @property
    def is_cut(self) -> bool:
        """Whether the model forced the end of the best output, which would have gone on."""
        return bool(self._finished) and self._finished[0][2]

    def candidates(self, logits: torch.Tensor) -> list[tuple[float, int, int]]:
        """The best continuations (score, beam, token), from logits (beams, vocabulary). Changes nothing."""
        ids = torch.tensor(self._open[: logits.shape[0]], device=logits.device)
        scores = self._changes(ids, logits.float().log_softmax(-1))  # type: ignore[arg-type]
        self._are_cut = [False] * len(scores)
        forced = self._defaults.forced(len(self._open[0]) - self._num_start, self._prepared)
        if forced is not None:
            if forced in self._end_ids:
                self._are_cut = [token not in self._end_ids for token in scores.argmax(-1).tolist()]
            scores = torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([forced], device=scores.device), 0)
        scores = scores + torch.tensor(self._scores, device=logits.device)[:, None]
        values, places = scores.flatten().topk(min(self._num_candidates, scores.numel()))
        size = scores.shape[1]
        return [(v, p // size, p % size) for v, p in zip(values.tolist(), places.tolist(), strict=True)]

    def advance(self, candidates: Items[tuple[float, int, int]]) -> Beams:
        """Takes a step with the candidates."""
        num_made = len(self._open[0]) - self._num_start + 1
        takes_more = self._can_improve and not (self._is_full and self._early is True)
        is_last = num_made >= self._max_tokens
        parents: list[int] = []
        grown: list[list[int]] = []
        scores: list[float] = []
        for rank, (score, beam, token) in enumerate(candidates):
            tokens = [*self._open[beam], token]
            if token in self._end_ids or is_last:
                if rank < self._width and takes_more and score > _NEVER:
                    self._finished.append(
                        (score / num_made**self._length_penalty, tokens[self._num_start :], self._are_cut[beam])
                    )
            elif len(grown) < self._width:
                grown.append(tokens)
                scores.append(score)
                parents.append(beam)
        self._finished.sort(key=lambda item: -item[0])
        del self._finished[self._width :]
        self.is_done = is_last or not grown or self._is_decided(scores[0], num_made)
        if self.is_done:
            return Beams([], [])
        for _ in range(self._width - len(grown)):  # of a vocabulary with hardly more tokens than beams
            grown, scores, parents = [*grown, grown[-1]], [*scores, _NEVER], [*parents, parents[-1]]
        self._open, self._scores = grown, scores
        return Beams([tokens[-1] for tokens in grown], parents)

    @property
    def _is_full(self) -> bool:
        return len(self._finished) == self._width

    def _is_decided(self, best_score: float, num_made: int) -> bool:
        """Whether no open beam can become one of the best outputs any more."""
        if self._is_full:
            length = self._max_tokens if self._early == "never" and self._length_penalty > 0 else num_made
            self._can_improve &= best_score / length**self._length_penalty > self._finished[-1][0]
        return not self._can_improve or (self._is_full and self._early is True)
