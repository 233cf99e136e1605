"""What of a corpus has no activations: counted where it happens, and told wherever the result is shown."""

import warnings
from dataclasses import dataclass, field, fields
from typing import Any

from neurodial.control.errors import NeurodialWarning
from neurodial.control.text.pieces import Encoded

LISTED = 5  # examples that are named


@dataclass
class LeftOut:
    """Texts and words for which a pass has no rows.

    Attributes:
        not_aligned: texts whose words could not be found among the tokens; nothing of them is used.
        words_cut: words beyond the model's length, the one in which the text was cut among them.
        texts_cut: texts that have such.
        words_without_tokens: other words that no token spells.
        words_not_in_file: words of which another tool's file has no activations.
        examples: numbers of the first of these texts.
    """

    not_aligned: int = 0
    words_cut: int = 0
    texts_cut: int = 0
    words_without_tokens: int = 0
    words_not_in_file: int = 0
    examples: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.examples)

    def add(self, number: int, tokens: Encoded) -> bool:
        """Counts what an example's tokens lack, and says whether the example can be used."""
        missing = [word for word, places in enumerate(tokens.pieces) if not places]
        if not missing:
            return True
        cut = [word for word in missing if word >= tokens.cut_at]
        is_aligned = bool(cut) or len(missing) < len(tokens.pieces)
        if is_aligned:
            self.words_cut += len(cut)
            self.texts_cut += bool(cut)
            self.words_without_tokens += len(missing) - len(cut)
        self.not_aligned += not is_aligned
        self.examples = [*self.examples, number][:LISTED]
        return is_aligned

    def merge(self, other: "LeftOut") -> "LeftOut":
        """Adds what was left out of later examples."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        self.examples = self.examples[:LISTED]
        return self

    def report(self) -> dict[str, Any]:
        """For reports; empty if nothing was left out."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name))}

    @property
    def described(self) -> dict[str, Any]:
        """What an artifact says of its corpus in addition, if anything was left out."""
        return {"left_out": self.report()} if self else {}

    def __str__(self) -> str:
        if not self:
            return ""
        said = [
            (self.not_aligned, "text", " that could not be aligned with tokens"),
            (self.words_cut, "word", f" beyond the model's length, in {_counted(self.texts_cut, 'text')}"),
            (self.words_without_tokens, "word", " without a token"),
            (self.words_not_in_file, "word", " of which the file has no activations"),
        ]
        where = ", ".join(map(str, self.examples)) + (", …" if len(self.examples) == LISTED else "")
        what = "; ".join(_counted(count, one) + more for count, one, more in said if count)
        return f"{what} (numbers, from 0: {where})"

    def warn(self, corpus: str) -> None:
        """Tells the user, if anything was left out."""
        if self:
            hint = "cut long texts into sentences" if self.words_cut else "look at these texts"
            warnings.warn(NeurodialWarning(f"{corpus}: left out: {self}", hint=hint), stacklevel=2)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
