"""How likely a causal model finds the tokens of a prompt, each after those before it."""

import torch

from neurodial.service.engine.model.sampling import top_logprobs
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import Outcome, not_a_number
from neurodial.service.engine.text import TokenTexts
from neurodial.service.engine.types import Scored, TokenLogprob

_MOST_LOGITS = 2**26  # numbers held at once, 256 MB


def rows_at_once(length: int, vocabulary: int) -> int:
    """How many texts of a length are read together."""
    return max(1, _MOST_LOGITS // (length * vocabulary))


def scored(sequence: Sequence, logits: torch.Tensor, texts: TokenTexts) -> Outcome:
    """The log-probabilities of a prompt's tokens but the first, which follows nothing.

    Args:
        sequence: whose prompt it is; its request says how many alternatives of each token are told.
        logits: (tokens of the prompt, vocabulary).
        texts: what tokens add to a text.
    """
    if not logits.isfinite().any(-1).all():
        return Outcome(sequence, error=not_a_number(sequence))
    ids, found, offset = sequence.prepared.prompt_ids, [], 0
    (first,) = texts((), ids[:1])
    offset = len(first)
    for place, token in enumerate(ids[1:], 1):
        logprob, top = top_logprobs(logits[place - 1], token, sequence.request.logprobs or 0)
        shown, *others = texts(ids[:place], [token, *(one for one, _ in top)])
        alternatives = tuple((text, value) for text, (_, value) in zip(others, top, strict=True))
        found.append(TokenLogprob(shown, logprob, alternatives, offset))
        offset += len(shown)
    return Outcome(sequence, end="stop", payload=Scored(first, tuple(found)))
