"""The built-in tense corpus: a small English grammar that writes minimal pairs, present and past.

Both sentences of a pair have the same words but for the finite verbs (`She opens the door.` / `She opened the door.`).
Everything is drawn from `interpret.corpora.grammars.lexicon`; the same seed writes the same pairs.
"""

from dataclasses import dataclass

from neurodial.control.text.words import join_words
from neurodial.interpret.corpora.grammars.phrases import Draw, Slot, Words, distinct
from neurodial.interpret.corpora.grammars.rules import RULES, draw_rule

MAX_WORDS = 14  # punctuation and clitics counted as words


@dataclass(frozen=True)
class GrammarPair:
    """One sentence in the present and in the past.

    Attributes:
        present: the sentence in the present tense.
        past: the same sentence in the past tense.
        kind: the rule that wrote it, e.g. `question_do`.
        lemma: the lemma of its first finite verb.
        verbs: positions of the finite verbs among the words (`control.text.words.split_words`), the same on both sides.
    """

    present: str
    past: str
    kind: str
    lemma: str
    verbs: tuple[int, ...]


def realise(words: Words, kind: str) -> GrammarPair:
    """Writes both sentences of a pair."""
    present = _write([w.present if isinstance(w, Slot) else w for w in words])
    past = _write([w.past if isinstance(w, Slot) else w for w in words])
    slots = [(i, w) for i, w in enumerate(words) if isinstance(w, Slot)]
    return GrammarPair(present, past, kind, slots[0][1].lemma, tuple(i for i, _ in slots))


def _write(words: list[str]) -> str:
    text = join_words(words)
    return text[0].upper() + text[1:]


def generate_pairs(count: int, seed: int = 0) -> list[GrammarPair]:
    """Writes `count` distinct minimal pairs.

    Args:
        count: number of pairs, at least 1; the grammar has well over 100,000.
        seed: the same seed gives the same pairs, and a larger count only adds to them.

    Raises:
        BadInput: `count` is not positive, or more than the grammar can write.
    """
    draw = Draw(seed)

    def write(attempt: int, number: int) -> tuple[tuple[str, str], GrammarPair] | None:
        kind = draw_rule(draw)
        words = RULES[kind].write(draw)
        if len(words) > MAX_WORDS:
            return None
        pair = realise(words, kind)
        return ((pair.present, pair.past), pair) if pair.present.lower() != pair.past.lower() else None

    return distinct(write, count, "pairs")
