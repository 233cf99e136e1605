"""Texts of users as tokens: what looks like a special token in them is text, and steers nothing."""

import re
from typing import Any

_FIRST_PLACEHOLDER = 0xF0000  # a private-use plane: no text has them by chance


class PlainText:
    """A tokenizer that reads special tokens only where they are meant.

    Not `split_special_tokens` alone: vocabularies of unigrams hold `</s>` as a piece as well.

    Args:
        tokenizer: the model's; whoever calls holds its lock.
        special: numbers of its special tokens.
    """

    def __init__(self, tokenizer: Any, special: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special - {getattr(tokenizer, "unk_token_id", None)}
        names = tokenizer.convert_ids_to_tokens(sorted(self._special)) if self._special else []
        self._marks = tuple(sorted({str(name) for name in names if name}, key=len, reverse=True))
        self._mark = re.compile("|".join(map(re.escape, self._marks)) or r"(?!)")

    def ids_of(self, text: str, **options: Any) -> tuple[int, ...]:
        """The tokens of a text.

        Args:
            text: of a user.
            **options: of the tokenizer, such as `add_special_tokens`.
        """
        if not self._mark.search(text):
            return tuple(self._tokenizer(text, verbose=False, **options)["input_ids"])
        options |= {"split_special_tokens": True, "verbose": False}
        whole = list(self._tokenizer(text, **options)["input_ids"])
        body = self._body(text)
        if not self._special.intersection(body):
            return tuple(whole)
        cut = self._mark.sub(lambda found: f"{found[0][0]}\0{found[0][1:]}", text).split("\0")
        start = next(n for n in range(len(whole)) if whole[n : n + len(body)] == body)
        inside = [token for part in cut for token in self._body(part)]
        return (*whole[:start], *inside, *whole[start + len(body) :])

    def chat(self, turns: list[dict[str, str]]) -> tuple[int, ...]:
        """The tokens of a chat, by the tokenizer's template, whose own special tokens are meant.

        Raises:
            jinja2.TemplateError: if the template refuses the chat.
        """
        options: dict[str, Any] = {"add_generation_prompt": True}
        if not any(self._mark.search(turn["content"]) for turn in turns):
            return tuple(self._tokenizer.apply_chat_template(turns, return_dict=False, **options))
        places = {chr(_FIRST_PLACEHOLDER + n): turn["content"] for n, turn in enumerate(turns)}
        held = [{**turn, "content": place} for turn, place in zip(turns, places, strict=True)]
        prompt = str(self._tokenizer.apply_chat_template(held, tokenize=False, **options))
        parts = re.split(f"([{''.join(places)}])", prompt)
        return tuple(
            token
            for part in parts
            if part
            for token in (
                self.ids_of(places[part], add_special_tokens=False)
                if part in places
                else self._tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
            )
        )

    def _body(self, text: str) -> list[int]:
        options: dict[str, Any] = {"split_special_tokens": True, "verbose": False, "add_special_tokens": False}
        return list(self._tokenizer(text, **options)["input_ids"])
