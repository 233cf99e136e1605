"""Completions in OpenAI's shapes."""

from collections.abc import Sequence
from itertools import accumulate

from neurodial.service.engine.types import Finished, TokenLogprob, Tokens
from neurodial.service.http.answering.responding import Shape
from neurodial.service.http.answering.results import ending_of
from neurodial.service.http.schemas.completions import Choice, Completion, Logprobs


class CompletionShape(Shape):
    """OpenAI's `text_completion`, whole and in chunks."""

    kind, answer, chunk = "cmpl", Completion, Completion

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._offsets: dict[int, int] = {}

    def piece(self, index: int, tokens: Tokens) -> Choice:
        """A choice's new text."""
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(t.token) for t in tokens.logprobs)
        shown = _logprobs_of(tokens.logprobs, offset)
        return Choice(index=index, text=tokens.text, finish_reason=None, logprobs=shown)

    def end(self, index: int, result: Finished, plain: Finished | None) -> Choice:
        """A choice's last piece."""
        return Choice(text="", **ending_of(index, result, plain))

    def choice(self, index: int, result: Finished, plain: Finished | None) -> Choice:
        """A choice in one piece."""
        return Choice(text=result.text, logprobs=_logprobs_of(result.logprobs, 0), **ending_of(index, result, plain))


def _logprobs_of(tokens: Sequence[TokenLogprob], offset: int) -> Logprobs | None:
    """Log-probabilities as OpenAI writes them; None where none were asked for.

    Args:
        tokens: of a piece of the output.
        offset: characters before it.
    """
    if not tokens:
        return None
    starts = accumulate((len(t.token) for t in tokens[:-1]), initial=offset)
    return Logprobs(
        tokens=[t.token for t in tokens],
        token_logprobs=[t.logprob for t in tokens],
        top_logprobs=[dict(t.top) for t in tokens],
        text_offset=list(starts),
    )
