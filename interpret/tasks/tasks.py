"""Tasks: inputs with a score of what the model says there. Causal methods change neurons and watch the score."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.control.text.batching import padded
from neurodial.interpret.activations.losses import IGNORED

Measure = Literal["log-probability", "probability"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of inputs and the tokens that a good model favours there.

    The score of a row is the mean over its labelled positions of log p(label), or of log p(label) − log p(foil).

    Attributes:
        inputs: what the model's forward takes; the first dimension of every tensor is the row.
        labels: (rows, tokens) the token that the logits at this position should favour, IGNORED elsewhere.
        foils: (rows, tokens) the token that they should not favour instead; None if there is none.
    """

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    foils: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def score(self, logits: torch.Tensor, measure: Measure = "log-probability") -> torch.Tensor:
        """(rows,) scores of logits (rows, tokens, vocabulary)."""
        scored = self.labels != IGNORED
        logits = logits.float()

        def of(tokens: torch.Tensor) -> torch.Tensor:
            return logits.gather(-1, tokens.clamp(min=0)[..., None])[..., 0]

        if measure == "log-probability" and self.foils is not None:
            value = of(self.labels) - of(self.foils)  # of the same distribution
        else:
            total = logits.logsumexp(-1)
            parts = [of(tokens) - total for tokens in (self.labels, self.foils) if tokens is not None]
            value = parts[0] if measure == "log-probability" else parts[0].exp()
            value = value if self.foils is None else value - parts[1].exp()
        return (value * scored).sum(1) / scored.sum(1)

    def select(self, rows: torch.Tensor) -> "Batch":
        """Some rows, in any order and number."""
        inputs = {name: value[rows] for name, value in self.inputs.items()}
        return Batch(inputs, self.labels[rows], None if self.foils is None else self.foils[rows])

    def at(self, places: torch.Tensor) -> "Batch":
        """The same inputs with the labels at (rows, k) places alone, as for logits of those places."""
        foils = None if self.foils is None else self.foils.gather(1, places)
        return Batch(self.inputs, self.labels.gather(1, places), foils)

    def row(self, number: int) -> "Batch":
        """One row as a batch of its own."""
        here = slice(number, number + 1)
        inputs = {name: value[here] for name, value in self.inputs.items()}
        return Batch(inputs, self.labels[here], None if self.foils is None else self.foils[here])


def forward(loaded: LoadedModel, batch: Batch) -> torch.Tensor:
    """(rows, tokens, vocabulary) logits of a batch."""
    model: Any = loaded.model
    cache = {} if loaded.family == "encoder-only" else {"use_cache": False}
    logits: torch.Tensor = model(**batch.inputs, **cache).logits
    return logits


def next_tokens(
    loaded: LoadedModel,
    prompts: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str] | None = None,
    *,
    batch: int = 32,
) -> list[Batch]:
    """How much the model favours each answer (over its foil) right after its prompt, or at the prompt's mask token.

    Args:
        loaded: a decoder-only or encoder-only model with a language-model head.
        prompts: texts; in an encoder-only model each holds the mask token once.
        answers: continuations of which the first token counts, with their leading space where the tokenizer needs one.
        foils: wrong continuations, whose first token must differ.
        batch: rows of a batch.

    Raises:
        BadInput: for lists of different length, prompts without a mask token, and foils that begin like the answer.
    """
    if len(answers) != len(prompts) or (foils is not None and len(foils) != len(prompts)):
        raise BadInput("prompts, answers and foils must be of the same number")
    if loaded.family == "encoder-decoder":
        raise BadInput("next tokens are asked of decoder-only and encoder-only models")
    rows = [
        prompt_of(loaded, prompt, answers[n], None if foils is None else foils[n]) for n, prompt in enumerate(prompts)
    ]
    return token_batches(rows, pad=loaded.pad_token_id or 0, batch=batch, device=loaded.model.device)


@dataclass(frozen=True)
class Prompt:
    """Token ids, the position whose logits count, the token they should favour and the one they should not."""

    ids: Sequence[int]
    position: int
    label: int
    foil: int | None = None


def token_batches(
    rows: Iterable[Prompt], *, pad: int, batch: int = 32, device: torch.device | str = "cpu"
) -> list[Batch]:
    """Batches of prompts given by their tokens, padded on the right, similar lengths together."""
    ordered = sorted(rows, key=lambda r: len(r.ids))
    batches = []
    for start in range(0, len(ordered), batch):
        here = ordered[start : start + batch]
        ids, mask = padded([row.ids for row in here], pad, device)
        batches.append(asked(here, {"input_ids": ids, "attention_mask": mask}, ids.shape[1]))
    return batches


def asked(prompts: Sequence[Prompt], inputs: Mapping[str, torch.Tensor], width: int) -> Batch:
    """Inputs with each prompt's label, and its foil where there are any, at the position whose logits count."""

    def at_places(tokens: Sequence[int | None]) -> torch.Tensor:
        values = torch.full((len(prompts), width), IGNORED)
        for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
            values[row, prompt.position] = IGNORED if token is None else token
        return values.to(inputs["input_ids"].device)

    foils = [prompt.foil for prompt in prompts]
    has_foils = any(foil is not None for foil in foils)
    return Batch(inputs, at_places([prompt.label for prompt in prompts]), at_places(foils) if has_foils else None)


def prompt_of(loaded: LoadedModel, prompt: str, answer: str, foil: str | None) -> Prompt:
    """One row of `next_tokens`.

    Raises:
        BadInput: for an answer that begins no token of its own, an empty prompt, or a foil that begins as it does.
    """
    tokenizer: Any = loaded.tokenizer
    ids = tokenizer(prompt)["input_ids"]
    if loaded.family == "encoder-only":
        places = [n for n, token in enumerate(ids) if token == tokenizer.mask_token_id]
        if len(places) != 1:
            raise BadInput(
                f"{prompt!r} must hold the mask token {tokenizer.mask_token!r} once, not {len(places)} times"
            )
        first = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (answer, foil) if text]
        position = places[0]
    else:
        ids = [token for token in ids if token != tokenizer.eos_token_id or token == tokenizer.bos_token_id]
        if not ids:
            raise BadInput(f"there is nothing before {answer!r} from which a model could tell it")
        first = [_continued(tokenizer, prompt, text, len(ids)) for text in (answer, foil) if text]
        position = len(ids) - 1
    if len(first) == 2 and first[0] == first[1]:
        raise BadInput(f"{answer!r} and {foil!r} begin with the same token after {prompt!r}")
    return Prompt(ids, position, first[0], first[1] if foil else None)


def _continued(tokenizer: Any, prompt: str, answer: str, length: int) -> int:
    """The first token of an answer as it is written behind its prompt."""
    joined = tokenizer(prompt + answer)["input_ids"]
    if joined[:length] != tokenizer(prompt)["input_ids"][:length] or len(joined) <= length:
        raise BadInput(
            f"{answer!r} does not begin a token of its own after {prompt!r}", hint="begin the answer with a space"
        )
    return int(joined[length])
