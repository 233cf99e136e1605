"""`echo`: completions that begin with their prompts, as evaluation harnesses ask for them."""

from collections.abc import Sequence
from dataclasses import replace

from neurodial.service.engine.types import Finished, Scored
from neurodial.service.http.answering.completions import logprobs_of
from neurodial.service.http.answering.prompts import Prompt
from neurodial.service.http.answering.results import ending_of, head, usage_of
from neurodial.service.http.answering.serving import Selected, choices_of
from neurodial.service.http.schemas.completions import Choice, Completion, CompletionRequest, Logprobs


async def echoed(chosen: Selected, request: CompletionRequest, prompts: Sequence[Prompt]) -> Completion:
    """Answers a request with `echo`.

    Its prompts are read once more for their tokens' probabilities; all under the same controls.

    Raises:
        BadInput: for a model that does not go on from its prompt.
    """
    rows = choices_of(chosen, request, prompts, request.logprobs, **request.reading)
    scores = await chosen.collect([replace(row, id=f"{row.id}-echo", task="score", max_tokens=None) for row in rows])
    written = await chosen.collect(rows) if request.max_tokens != 0 else [_nothing(score) for score in scores]
    choices = []
    for index, (row, score, done) in enumerate(zip(rows, scores, written, strict=True)):
        text = row.prompt if row.token_ids is None else _text_of(score.payload)
        shown = None if request.logprobs is None else _joined(score.payload, done, len(text))
        choices.append(Choice(text=text + done.text, logprobs=shown, **ending_of(index, done, None)))
    return Completion(**head("cmpl", request.model), choices=choices, usage=usage_of(written, request.n or 1))


def _nothing(score: Finished) -> Finished:
    """The end of a completion without any token."""
    return replace(score, reason="length", payload=None)


def _text_of(scored: Scored) -> str:
    return scored.first + "".join(token.token for token in scored.rest)


def _joined(scored: Scored, done: Finished, num_before: int) -> Logprobs:
    """The prompt's log-probabilities and those of what was written behind it."""
    rest, more = logprobs_of(scored.rest), logprobs_of(done.logprobs)
    parts = [part for part in (rest, more) if part is not None]
    offsets = [
        *(rest.text_offset if rest else ()),
        *(num_before + place for place in (more.text_offset if more else ())),
    ]
    return Logprobs(
        tokens=[scored.first, *(token for part in parts for token in part.tokens)],
        token_logprobs=[None, *(value for part in parts for value in part.token_logprobs)],
        top_logprobs=[None, *(top for part in parts for top in part.top_logprobs)],
        text_offset=[0, *offsets],
    )
