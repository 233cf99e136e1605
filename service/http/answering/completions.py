"""Completions in OpenAI's shapes."""

from collections.abc import Sequence

from neurodial.service.engine.types import Finished, TokenLogprob, Tokens
from neurodial.service.http.answering.responding import Shape
from neurodial.service.http.answering.results import ending_of
from neurodial.service.http.schemas.completions import Choice, Completion, Logprobs


class CompletionShape(Shape):
    """OpenAI's `text_completion`, whole and in chunks."""

    kind, answer, chunk = "cmpl", Completion, Completion

    def piece(self, index: int, tokens: Tokens) -> Choice:
        """A choice's new text."""
        shown = logprobs_of(tokens.logprobs)
        return Choice(index=index, text=tokens.text, finish_reason=None, logprobs=shown)

    def end(self, index: int, result: Finished, plain: Finished | None) -> Choice:
        """A choice's last piece."""
        return Choice(text="", **ending_of(index, result, plain))

    def choice(self, index: int, result: Finished, plain: Finished | None) -> Choice:
        """A choice in one piece."""
        return Choice(text=result.text, logprobs=logprobs_of(result.logprobs), **ending_of(index, result, plain))


def logprobs_of(tokens: Sequence[TokenLogprob]) -> Logprobs | None:
    """Log-probabilities as OpenAI writes them; None where none were asked for."""
    if not tokens:
        return None
    return Logprobs(
        tokens=[t.token for t in tokens],
        token_logprobs=[t.logprob for t in tokens],
        top_logprobs=[_alternatives_of(t) for t in tokens],
        text_offset=[t.offset for t in tokens],
    )


def _alternatives_of(token: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens and the chosen one; of those with the same text the likeliest."""
    found: dict[str, float] = {}
    for text, value in (*token.top, (token.token, token.logprob)):
        found.setdefault(text, value)
    return found
