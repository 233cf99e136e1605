"""Asking a model what its neurons do on text that is not in the corpus."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import BadInput
from neurodial.control.models.capture import capture
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.corpora.corpus import Example, Sentence
from neurodial.interpret.methods.observations import Chosen

Array = np.ndarray[Any, Any]


class NeuronModel(Protocol):
    """Some neurons of a model that reads new text.

    Attributes:
        vocabulary: the text of every token that a text may be made of, by number; None for those it may not, such as
            special ones.
    """

    vocabulary: Sequence[str | None]

    def respond(self, texts: Sequence[str]) -> Array:
        """(texts, neurons) mean activation over each text's words."""

    def represent(self, texts: Sequence[str]) -> Array:
        """(texts, width) mean activation of all neurons of the same sites: the text's representation."""

    def tokens(self, text: str) -> list[int]:
        """Numbers of a text's tokens, special ones left out."""

    def spell(self, tokens: Sequence[int]) -> str:
        """The text that tokens spell."""

    def soft(self, choices: torch.Tensor) -> torch.Tensor:
        """Activations on mixtures of tokens, differentiable.

        Args:
            choices: (batch, length, tokens) shares of every token at every place.

        Returns:
            (batch, length, neurons).
        """


class ModelNeurons:
    """Some neurons of a loaded model, see `NeuronModel`."""

    def __init__(self, loaded: LoadedModel, chosen: Chosen) -> None:
        if chosen.sites[0].stack == "decoder" and loaded.family == "encoder-decoder":
            raise BadInput(
                f"{chosen.addresses[0]}: new text has no source sentence for the decoder to translate",
                hint="take an encoder neuron, or --method top-contexts with a corpus that has a target side",
            )
        self._loaded = loaded
        self._chosen = chosen
        tokenizer = loaded.tokenizer
        special = set(tokenizer.all_special_ids)
        size = self._embedding.num_embeddings
        known = len(tokenizer)
        self.vocabulary: Sequence[str | None] = [
            None if i in special or i >= known else str(tokenizer.convert_ids_to_tokens(i)) for i in range(size)
        ]
        self._before, self._after = self._frame()

    def respond(self, texts: Sequence[str]) -> Array:
        """See `NeuronModel.respond`."""
        return self._chosen.pick(self._means(texts))

    def represent(self, texts: Sequence[str]) -> Array:
        """See `NeuronModel.represent`."""
        return np.concatenate(list(self._means(texts).values()), axis=1)

    def tokens(self, text: str) -> list[int]:
        """See `NeuronModel.tokens`."""
        ids = self._loaded.tokenizer(text)["input_ids"]
        return [i for i in ids if self.vocabulary[i] is not None]

    def spell(self, tokens: Sequence[int]) -> str:
        """See `NeuronModel.spell`."""
        return str(self._loaded.tokenizer.decode(list(tokens))).strip()

    def soft(self, choices: torch.Tensor) -> torch.Tensor:
        """See `NeuronModel.soft`; the special tokens that a text of the model has stand around the choices."""
        model, embedding = self._loaded.model, self._embedding
        batch, length, size = choices.shape
        with torch.no_grad():  # whatever the embedding does to its rows, such as scaling them, is in the table
            table = embedding(torch.arange(size, device=model.device))
        mixed = choices.to(table.dtype) @ table
        frame = [table[ids].expand(batch, -1, -1) for ids in (self._before, self._after)]
        rows = torch.cat([frame[0], mixed, frame[1]], dim=1)
        place = torch.tensor([*self._before, *[0] * length, *self._after], device=model.device)
        ids = place.expand(batch, -1)
        hook = embedding.register_forward_hook(lambda _module, _args, _output: rows)
        encoder = self._loaded.family == "encoder-decoder"
        reader: Any = model.get_encoder() if encoder else model.base_model
        try:
            with capture(model, self._chosen.sites, self._loaded.sites) as recorded:
                reader(input_ids=ids, attention_mask=torch.ones_like(ids))
        finally:
            hook.remove()
        start = len(self._before)
        columns = torch.empty(len(self._chosen.addresses), dtype=torch.long)
        parts, at = [], 0
        for site, places, numbers in self._chosen.columns:
            parts.append(recorded[site][:, start : start + length, torch.from_numpy(places)])
            columns[torch.from_numpy(numbers)] = torch.arange(at, at + len(places))
            at += len(places)
        return torch.cat(parts, dim=-1)[..., columns.to(model.device)]

    @property
    def _embedding(self) -> Any:
        model: Any = self._loaded.model
        return (model.get_encoder() if self._loaded.family == "encoder-decoder" else model).get_input_embeddings()

    def _frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        tokenizer = self._loaded.tokenizer
        ids = list(tokenizer("a")["input_ids"])
        inside = [
            i for i, token in enumerate(ids) if self.vocabulary[token] is not None or token == tokenizer.unk_token_id
        ]
        if not inside:
            return [], ids
        return ids[: inside[0]], ids[inside[-1] + 1 :]

    def _means(self, texts: Sequence[str]) -> dict[Any, Array]:
        """Per site (texts, width) means over the texts' words, as a corpus's words are observed: their last pieces."""
        examples = (Example(i, Sentence.of(text)) for i, text in enumerate(texts))
        sums: dict[Any, Array] = {}
        counts = np.zeros(len(texts))
        for block in extract(self._loaded, examples, (NONE_CLASS,), Extraction(self._chosen.sites)):
            np.add.at(counts, block.examples, 1)
            for site, values in block.values.items():
                known = sums.setdefault(site, np.zeros((len(texts), values.shape[1])))
                np.add.at(known, block.examples, values)
        return {site: known / np.maximum(counts, 1)[:, None] for site, known in sums.items()}
