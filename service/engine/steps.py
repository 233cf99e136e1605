"""What happens to each row between two steps of `generate`: sampling, NaN, tokens on their way, the end."""

from collections.abc import Callable, Collection
from collections.abc import Sequence as Items

import torch
from transformers import LogitsProcessor, StoppingCriteria

from neurodial.control.errors import InternalError
from neurodial.control.hooks import Application
from neurodial.service.engine.primitives import NOTHING_APPLIED, FinishReason
from neurodial.service.engine.sequence import Sequence

_GREEDY_BELOW = 1e-4  # temperatures so small that dividing by them could overflow
_FILLER = -1.0e9


class RowProcessor(LogitsProcessor):
    """Per row: samples with the request's own seed, and takes rows whose logits are not numbers out of play.

    Sampling adds Gumbel noise, drawn from one generator a request, and leaves the choice to arg max: what a request
    gets does not depend on the batch it is in.
    """

    def __init__(self, batch: Items[Sequence], beams: int = 1) -> None:
        self.broken: set[int] = set()
        self._beams = beams
        self._sampled = [
            (row, sequence.request.temperature, torch.Generator().manual_seed(sequence.prepared.seed))
            for row, sequence in enumerate(batch)
            if sequence.request.temperature >= _GREEDY_BELOW
        ]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Changes the scores (rows · beams, vocabulary)."""
        bad = (torch.isnan(scores) | torch.isposinf(scores)).any(dim=-1)
        if bool(bad.any()):
            self.broken.update(int(row) // self._beams for row in bad.nonzero().flatten())
            scores = scores.masked_fill(bad[:, None], _FILLER)  # type: ignore[assignment]
        for row, temperature, generator in self._sampled:
            noise = -torch.empty(scores.shape[-1]).exponential_(generator=generator).log()
            scores[row] = scores[row] / temperature + noise.to(scores.device)
        return scores


class _Criterion(StoppingCriteria):
    def __init__(
        self,
        batch: Items[Sequence],
        processor: RowProcessor,
        application: Application,
        eos_ids: Collection[int],
        beat: Callable[[], None],
    ) -> None:
        self._batch = batch
        self._processor = processor
        self._application = application
        self._eos_ids = eos_ids
        self._beat = beat

    def _end(self, row: int, reason: FinishReason) -> None:
        self._batch[row].finish(reason, self._application.report(row) or NOTHING_APPLIED)

    def _fail_broken(self, row: int) -> None:
        what = "under these controls" if self._batch[row].request.controls else "without controls"
        message = f"the model's output {what} is not a number"
        self._batch[row].fail(InternalError(message, hint="a smaller strength or value may help"))


class RowCriterion(_Criterion):
    """Greedy and sampled rows: hands every token on and ends each row on its own."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:  # type: ignore[override]
        """Which rows are done (rows,)."""
        self._beat()
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if not self._batch[row].is_finished:
                self._advance(row, token)
        done = [sequence.is_finished for sequence in self._batch]
        return torch.tensor(done, device=input_ids.device)  # type: ignore[return-value]

    def _advance(self, row: int, token: int) -> None:
        sequence = self._batch[row]
        if sequence.is_cancelled:
            self._end(row, "cancelled")
        elif row in self._processor.broken:
            self._fail_broken(row)
        elif token in self._eos_ids or sequence.push(token):
            self._end(row, "stop")
        elif len(sequence.ids) == sequence.prepared.max_tokens:
            self._end(row, "length")


class BeamCriterion(_Criterion):
    """Beam search: rows end together, cancelled ones at once; `deliver` hands the best beams on."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:  # type: ignore[override]
        """Which beams are done (rows · beams,)."""
        self._beat()
        candidates = input_ids.shape[0] // len(self._batch)
        given_up = [s.is_cancelled or row in self._processor.broken for row, s in enumerate(self._batch)]
        return torch.tensor(given_up, device=input_ids.device).repeat_interleave(candidates)  # type: ignore[return-value]

    def deliver(self, outputs: Items[Items[int]]) -> None:
        """Ends every row with its best beam, a list of tokens up to the first end token or padding."""
        for row, tokens in enumerate(outputs):
            sequence = self._batch[row]
            if sequence.is_cancelled:
                self._end(row, "cancelled")
            elif row in self._processor.broken:
                self._fail_broken(row)
            elif not sequence.is_finished:
                self._end(row, self._push_all(sequence, tokens))

    def _push_all(self, sequence: Sequence, tokens: Items[int]) -> FinishReason:
        for token in tokens:
            if token in self._eos_ids or sequence.push(token):
                return "stop"
            if len(sequence.ids) == sequence.prepared.max_tokens:
                return "length"
        return "stop"
