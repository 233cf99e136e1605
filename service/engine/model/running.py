"""A running sequence with its rows: what its next step is."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import torch

from neurodial.service.engine.model.beams import Beams, BeamSearch
from neurodial.service.engine.model.sampling import ModelDefaults, RowChooser, is_plain, top_logprobs
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import Outcome, not_a_number
from neurodial.service.engine.text import TokenTexts
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

    def choose(self, logits: torch.Tensor, rows: Items[int], best: Items[int], texts: TokenTexts) -> NextTokens:
        """Chooses from a pass's logits.

        Args:
            logits: (rows of the pass, vocabulary).
            rows: this sequence's among them.
            best: of every row of the pass, the likeliest token that is not banned; below zero where the logits are
                not numbers.
            texts: what tokens add to a text.
        """
        if min([best[row] for row in rows]) < 0:
            return NextTokens(Outcome(self.sequence, error=not_a_number(self.sequence)))
        if self.search is not None:
            open_rows = list(rows) if self.num_made else [rows[0]]  # at first all beams are the same
            return NextTokens(Outcome(self.sequence), candidates=tuple(self.search.candidates(logits[open_rows])))
        row = rows[0]
        if self._chooser is not None:
            return self._choose_one(self._chooser, logits[row], texts)
        return self._choice(best[row])

    def take(self, choice: NextTokens) -> tuple[Outcome, Beams | None]:
        """Makes the choice count."""
        self.num_made += 1
        if self.search is None or not choice.candidates:
            return choice.outcome, None
        beams = self.search.advance(choice.candidates)
        if not self.search.is_done:
            return choice.outcome, beams
        tokens = tuple(self.search.best)
        has_ended = bool(tokens) and tokens[-1] in self.sequence.prepared.end_ids and not self.search.is_cut
        end: FinishReason = "stop" if has_ended else "length"
        others = tuple(self.search.others[: self.sequence.request.alternatives])
        return Outcome(self.sequence, tokens, end=end, payload=others or None), None

    def _choose_one(self, chooser: RowChooser, logits: torch.Tensor, texts: TokenTexts) -> NextTokens:
        choice = self._choice(chooser.choose(logits[None].clone()))
        count = self.sequence.request.logprobs
        if count is not None:
            token = choice.tokens[0]
            logprob, top = top_logprobs(logits, token, count)
            shown, *others = texts(self.sequence.ids, [token, *(i for i, _ in top)])
            alternatives = tuple((text, value) for text, (_, value) in zip(others, top, strict=True))
            choice.outcome.logprobs = (TokenLogprob(shown, logprob, alternatives),)
        return choice

    def _choice(self, wanted: int) -> NextTokens:
        """A choice whose sequence ends for its length where the model forces an end that was not wanted."""
        forced = self.defaults.forced(self.num_made, self.sequence.prepared)
        token = wanted if forced is None else forced
        ends = self.sequence.prepared.end_ids
        is_cut = wanted not in ends and token in ends
        return NextTokens(Outcome(self.sequence, (token,), end="length" if is_cut else None), (token,))
