"""The languages of a multilingual translation model, and how its tokenizer and its decoder are told which to use."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

from neurodial.control.errors import BadInput
from neurodial.service.languages import closest, tag_of

_SHOWN = 30


@dataclass(frozen=True)
class Direction:
    """What a translation from one language to another asks of a model.

    Attributes:
        source: what the tokenizer is told that a text is in; None where it cannot be told.
        target: what it is told that a target text is in.
        prefix: begins the text that the encoder reads.
        start: the token that the decoder's input starts with; None is the model's own.
        first: the token that the output has to start with; None is the model's own.
    """

    source: str | None = None
    target: str | None = None
    prefix: str = ""
    start: int | None = None
    first: int | None = None


class Languages:
    """What one model translates from and into.

    Args:
        tokens: the tokenizer's own language codes, each with its token.
        how: tells the target: `first` forces the output's first token (M2M100, NLLB, mBART-50), `start` starts the
            decoder with it (mBART), `prefix` writes it before the text (Marian).
        source: the tokenizer's code of the language that texts are in where a request does not say.
        target: that of the language that they are translated into.
        own: the tokenizer's code of the language that texts are read in where nobody says; None where it is not told.

    Attributes:
        codes: every language's shortest code that no other language has → the tokenizer's own code.
        tokens: as given.
    """

    def __init__(
        self, tokens: Mapping[str, int], how: str, source: str | None, target: str | None, own: str | None
    ) -> None:
        self.tokens, self._how, self._own = dict(tokens), how, own
        tags = {own: tag_of(own) for own in tokens}
        short = {own: tag.partition("-")[0] for own, tag in tags.items()}
        times = Counter(short.values())
        self.codes = {short[own] if times[short[own]] == 1 else tags[own]: own for own in tokens}
        self._usual = source, target

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: Any) -> "Languages | None":
        """A model's; None where it knows one language, or one pair."""
        kind = type(tokenizer).__name__.removesuffix("Fast")
        if model.config.model_type == "marian":
            codes = getattr(tokenizer, "supported_language_codes", None) or []
            tokens = {code[2:-2]: tokenizer.encoder[code] for code in codes}
            return cls(tokens, "prefix", None, None, None) if tokens else None
        if not hasattr(tokenizer, "src_lang"):
            return None
        tokens = _tokens_of(tokenizer)
        config = model.generation_config
        forced = (config.decoder_start_token_id if config else None) or model.config.decoder_start_token_id
        if kind != "MBartTokenizer":
            forced = (config.forced_bos_token_id if config else None) or getattr(
                model.config, "forced_bos_token_id", None
            )
        target = next((code for code, token in tokens.items() if token == forced), None)
        how = "start" if kind == "MBartTokenizer" else "first"
        return cls(tokens, how, tokenizer.init_kwargs.get("src_lang"), target, tokenizer.src_lang)

    def with_usual(self, source: str, target: str) -> "Languages":
        """The same, for requests that name no language.

        Raises:
            BadInput: if the model does not know one of the two.
        """
        own = self._known(source, "source") if self._how != "prefix" else None
        return Languages(self.tokens, self._how, own, self._known(target, "target"), own)

    def direction(self, source: str | None, target: str | None) -> Direction:
        """What a request's languages come to.

        Raises:
            BadInput: if the model does not know one, or needs one that neither the request nor the model names.
        """
        found = self._known(target, "target")
        token = self.tokens[found]
        if self._how == "prefix":
            return Direction(prefix=f">>{found}<< ")
        return Direction(
            self._known(source, "source"), found, "", *((token, None) if self._how == "start" else (None, token))
        )

    def reading(self) -> Direction:
        """Of texts that are only read: nobody names their language, and the tokenizer may have been told another."""
        return Direction(self._own, self._own)

    def _known(self, code: str | None, field: str) -> str:
        usual = self._usual[field == "target"]
        if code is None and usual is not None:
            return usual
        known = ", ".join(sorted(self.codes)[:_SHOWN]) + (", …" if len(self.codes) > _SHOWN else "")
        hint = f"it knows {known}"
        if code is None:
            message = f"{field} is missing: this model translates between {len(self.codes)} languages"
            raise BadInput(message, hint=hint, param=field)
        found = self.codes.get(code) or closest(code, self.tokens)
        if found is None:
            raise BadInput(f"{field}: this model does not know the language {code!r}", hint=hint, param=field)
        return found


def _tokens_of(tokenizer: Any) -> dict[str, int]:
    known = getattr(tokenizer, "lang_code_to_id", None)
    if known:
        return {str(code): int(token) for code, token in known.items()}
    vocabulary = tokenizer.get_vocab()
    return {code: vocabulary[code] for code in FAIRSEQ_LANGUAGE_CODES if code in vocabulary}
