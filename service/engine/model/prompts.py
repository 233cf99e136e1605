"""From requests to tokens and back: one tokenizer that several threads use."""

import threading
from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateError

from neurodial.control.distilled.head import Head, Reading
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.service.engine.model.byte_tokens import ByteTokens
from neurodial.service.engine.model.languages import Direction, Languages
from neurodial.service.engine.model.plain_text import PlainText
from neurodial.service.engine.requests import EngineRequest, Message
from neurodial.service.engine.text import complete

_CONTEXT = 16  # tokens before another that settle what it adds: the first of a text is decoded differently


class Prompts:
    """A model's tokenizer behind a lock: MarianTokenizer switches its state and is not safe for two threads.

    Attributes:
        vocab_size: tokens are numbered below it.
        has_chat_template: whether the tokenizer makes prompts of chats.
    """

    def __init__(self, loaded: LoadedModel, languages: Languages | None = None) -> None:
        self._languages = frozenset(languages.tokens.values() if languages else ())
        self._tokenizer: Any = loaded.tokenizer
        self._lock = threading.Lock()
        special = frozenset(getattr(loaded.tokenizer, "all_special_ids", ()))
        self._special = special | self._languages
        self._plain = PlainText(loaded.tokenizer, special)
        self._bytes = ByteTokens(loaded.tokenizer)
        self.vocab_size = int(loaded.model.config.get_text_config().vocab_size)
        self.has_chat_template = bool(getattr(loaded.tokenizer, "chat_template", None))

    def ids_of(self, request: EngineRequest, direction: Direction) -> tuple[int, ...]:
        """A request's prompt as tokens, in the direction that a multilingual model is told.

        Raises:
            BadInput: if it has none, if there is no such token, or if its chat cannot be read.
        """
        if request.token_ids is not None:
            ids = self._checked(request.token_ids, request.field)
        elif request.messages:
            ids = self._chat(request.messages)
        else:
            with self._told(direction):
                options = {} if request.add_special_tokens else {"add_special_tokens": False}
                ids = self._read(direction.prefix + request.prompt, request.split_special_tokens, **options)
        if request.truncate_prompt_tokens is not None:
            ids = ids[-request.truncate_prompt_tokens :]
        if not ids:
            raise BadInput(f"{request.field} has no tokens", param=request.field)
        return ids

    def _read(self, text: str, split_special_tokens: bool, **options: Any) -> tuple[int, ...]:
        if split_special_tokens:
            return self._plain.ids_of(text, **options)
        return tuple(self._tokenizer(text, verbose=False, **options)["input_ids"])

    def read(self, request: EngineRequest, head: Head) -> Reading:
        """A request's prompt as a distilled model's classifier reads it.

        Raises:
            BadInput: if it was given as tokens, which are no words.
        """
        if request.token_ids is not None:
            raise BadInput(
                f"{request.field}: this model reads words, not tokens", hint="send text", param=request.field
            )
        with self._lock:
            reading = head.read(self._tokenizer, request.prompt)
        if not reading.ids:
            raise BadInput(f"{request.field} has no tokens", param=request.field)
        return reading

    def target_ids(self, target: str, start: int, end_ids: frozenset[int], direction: Direction) -> tuple[int, ...]:
        """What a decoder reads to write `target`: the start token and all of its tokens but the end."""
        with self._told(direction):
            options: dict[str, Any] = {"split_special_tokens": True, "verbose": False}
            ids = tuple(self._tokenizer(text_target=target, **options)["input_ids"])
        while ids and ids[-1] in end_ids | self._languages:  # mBART ends a text with its language
            ids = ids[:-1]
        return (start if direction.start is None else direction.start, *ids)

    @contextmanager
    def _told(self, direction: Direction) -> Iterator[None]:
        """The tokenizer for oneself; it remembers the languages that it was told last."""
        with self._lock:
            if direction.source is not None:
                self._tokenizer.src_lang, self._tokenizer.tgt_lang = direction.source, direction.target
            yield

    def decode(self, ids: Items[int]) -> str:
        """The text of generated tokens, special ones left out."""
        with self._lock:
            return self._decode(ids)

    def added(self, before: Items[int], candidates: Items[int]) -> list[str]:
        """What each of some tokens would add to a generated text; of a special one its name.

        Args:
            before: the tokens of the text.
            candidates: for the next place.
        """
        context = list(before[-_CONTEXT:])
        with self._lock:
            num_known = len(complete(self._decode(context)))
            return [
                str(self._tokenizer.convert_ids_to_tokens(token))
                if token in self._special
                else self._decode([*context, token])[num_known:]
                for token in candidates
            ]

    def _decode(self, ids: Items[int]) -> str:
        ids = [token for token in ids if token not in self._special]
        return str(self._tokenizer.decode(self._bytes.mended(ids), clean_up_tokenization_spaces=False))

    def pieces(self, ids: Items[int]) -> tuple[str, ...]:
        """Tokens as the vocabulary writes them; "" for one that it does not have."""
        with self._lock:
            return tuple(piece or "" for piece in self._tokenizer.convert_ids_to_tokens(list(ids)))

    def tokenize(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        split_special_tokens: bool = True,
        messages: tuple[Message, ...] = (),
    ) -> tuple[tuple[int, str], ...]:
        """See `EngineClient.tokenize`."""
        if messages:
            ids = self._chat(messages)
        else:
            with self._lock:
                ids = self._read(text, split_special_tokens, add_special_tokens=add_special_tokens)
        return tuple(zip(ids, self.pieces(ids), strict=True))

    def detokenize(self, ids: tuple[int, ...]) -> str:
        """See `EngineClient.detokenize`."""
        self._checked(ids, "tokens")
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _checked(self, ids: tuple[int, ...], field: str) -> tuple[int, ...]:
        for place, token in enumerate(ids):
            if not 0 <= token < self.vocab_size:
                here = f"{field}[{place}]"
                raise BadInput(f"{here} is {token}; the model's tokens are 0 to {self.vocab_size - 1}", param=here)
        return ids

    def _chat(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        if not self.has_chat_template:
            raise BadInput("this model has no chat template", hint="send a prompt to /v1/completions", param="messages")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            with self._lock:
                return self._plain.chat(turns)
        except TemplateError as error:
            said = str(error).strip() or type(error).__name__
            raise BadInput(f"messages: the model's chat template refuses them: {said}", param="messages") from None
