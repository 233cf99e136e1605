"""A running sequence with its rows: what its next step is."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import torch

from neurodial.service.engine.model.beams import Beams, BeamSearch
from neurodial.service.engine.model.sampling import ModelDefaults, RowChooser, is_plain, top_logprobs
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import Outcome, not_a_number
from neurodial.service.engine.text import Decode
from neurodial.service.engine.types import FinishReason, TokenLogprob


@dataclass(slots=True, eq=False)  # not frozen: one is made for every token
class NextTokens:
    """What a sequence makes of its logits; nothing has changed yet.

    Attributes:
        outcome: for the engine.
        tokens: the next input of each of its rows; none where it ends.
        candidates: of a beam search.
    """

    outcome: Outcome
    tokens: tuple[int, ...] = ()
    candidates: tuple[tuple[float, int, int], ...] = ()


@dataclass(eq=False)
class RunningSequence:
    """One sequence's rows: one, or one a beam.

    Attributes:
        sequence: whose they are.
        slots: of its controls, one a row.
        defaults: the model's own generation settings.
        device: the model's.
        rows: its places in the batch.
        num_made: tokens so far.
    """

    sequence: Sequence
    slots: list[int]
    defaults: ModelDefaults
    device: torch.device
    rows: list[int] = field(default_factory=list)
    num_made: int = 0

    def __post_init__(self) -> None:
        setting = self.sequence, self.defaults, self.device
        is_search = self.sequence.request.num_beams > 1
        self.is_plain = not is_search and is_plain(self.sequence, self.defaults)
        self.search = BeamSearch(*setting) if is_search else None
        self._chooser = None if is_search or self.is_plain else RowChooser(*setting)

    def choose(self, logits: torch.Tensor, rows: Items[int], best: Items[int], decode: Decode) -> NextTokens:
        """Chooses from a pass's logits.

        Args:
            logits: (rows of the pass, vocabulary).
            rows: this sequence's among them.
            best: of every row of the pass, the likeliest token that is not banned; below zero where the logits are
                not numbers.
            decode: makes text of tokens.
        """
        if min([best[row] for row in rows]) < 0:
            return NextTokens(Outcome(self.sequence, error=not_a_number(self.sequence)))
        if self.search is not None:
            open_rows = list(rows) if self.num_made else [rows[0]]  # at first all beams are the same
            return NextTokens(Outcome(self.sequence), candidates=tuple(self.search.candidates(logits[open_rows])))
        row = rows[0]
        if self._chooser is not None:
            return self._choose_one(self._chooser, logits[row], decode)
        token = best[row]
        forced = self.defaults.forced(self.num_made, self.sequence.prepared.max_tokens)
        return self._choice(token, token if forced is None else forced)

    def take(self, choice: NextTokens) -> tuple[Outcome, Beams | None]:
        """Makes the choice count."""
        self.num_made += 1
        if self.search is None or not choice.candidates:
            return choice.outcome, None
        beams = self.search.advance(choice.candidates)
        if not self.search.is_done:
            return choice.outcome, beams
        tokens = tuple(self.search.best)
        end: FinishReason = "stop" if tokens and tokens[-1] in self.defaults.end_ids else "length"
        return Outcome(self.sequence, tokens, end=end), None

    def _choose_one(self, chooser: RowChooser, logits: torch.Tensor, decode: Decode) -> NextTokens:
        token = chooser.choose(logits[None].clone())
        count = self.sequence.request.logprobs
        if count is None:
            return self._choice(token, token)
        logprob, top = top_logprobs(logits, token, count)
        shown = TokenLogprob(decode([token]), logprob, tuple((decode([i]), value) for i, value in top))
        return self._choice(token, token, (shown,))

    def _choice(self, wanted: int, token: int, logprobs: tuple[TokenLogprob, ...] = ()) -> NextTokens:
        """A choice whose sequence ends for its length where the model forces an end that was not wanted."""
        is_cut = wanted != token and token in self.defaults.end_ids
        return NextTokens(Outcome(self.sequence, (token,), logprobs, "length" if is_cut else None), (token,))
