"""Moves English sentences between present and past by rule, for minimal pairs from sentences whose tense is known.

The forms come from a table read off a treebank; a sentence that the rules do not cover wholly is refused, not guessed.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

Span = tuple[int, int]
Token = tuple[str, int, int]  # word, start, end
WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?|[^\sA-Za-z]")
ADVERBS = frozenset(
    [
        "always",
        "never",
        "really",
        "just",
        "also",
        "still",
        "often",
        "usually",
        "only",
        "almost",
        "already",
        "even",
        "both",
        "all",
        "sometimes",
    ]
)
SUBJECTS_OF_BASE = frozenset(["i", "you", "we", "they", "people", "these", "those"])
CONTRACTED = {"'m": "am", "'re": "are", "'s": "is"}
HOSTS_OF_IS = frozenset(
    [
        "it",
        "he",
        "she",
        "that",
        "there",
        "what",
        "who",
        "where",
        "how",
        "here",
        "this",
        "everything",
        "nothing",
        "something",
        "everyone",
    ]
)
AUXILIARIES = {"is": "was", "are": "were", "am": "was", "has": "had", "does": "did", "can": "could"}
NEGATED = {
    "isn't": "wasn't",
    "aren't": "weren't",
    "don't": "didn't",
    "doesn't": "didn't",
    "can't": "couldn't",
    "cannot": "couldn't",
    "hasn't": "hadn't",
    "haven't": "hadn't",
}
DO_FORMS = frozenset(["do", "does", "did", "don't", "doesn't", "didn't"])
BE_OR_HAVE = frozenset(
    [
        "is",
        "are",
        "am",
        "was",
        "were",
        "be",
        "been",
        "being",
        "has",
        "have",
        "had",
        "having",
        "isn't",
        "aren't",
        "wasn't",
        "weren't",
        "'s",
        "'re",
        "'m",
    ]
)
BLOCKERS = frozenset(
    [
        "will",
        "would",
        "shall",
        "should",
        "may",
        "might",
        "must",
        "'ll",
        "'d",
        "'ve",
        "won't",
        "wouldn't",
        "shouldn't",
        "let's",
    ]
)
NO_FINITE_AFTER = frozenset(
    [
        "to",
        "will",
        "would",
        "shall",
        "should",
        "may",
        "might",
        "must",
        "can",
        "could",
        "do",
        "does",
        "did",
        "don't",
        "doesn't",
        "didn't",
        "can't",
        "couldn't",
        "let",
        "make",
        "makes",
        "made",
        "see",
        "saw",
        "hear",
        "heard",
    ]
)


@dataclass(frozen=True)
class Moved:
    """A sentence in both tenses with the character spans of its verbs.

    Attributes:
        source: the sentence as it was.
        target: the same in the other tense.
        source_spans: of the finite verbs in `source`, and of the infinitives that *do* carries.
        target_spans: of the same words in `target`.
    """

    source: str
    target: str
    source_spans: tuple[Span, ...]
    target_spans: tuple[Span, ...]


@dataclass
class FormTable:
    """Finite forms of English verbs: lemma → tag (VB, VBZ, VBD) → form, and the ways back."""

    forms: dict[str, dict[str, str]] = field(default_factory=dict)
    by_form: dict[str, dict[str, str]] = field(default_factory=dict)
    base: set[str] = field(default_factory=set)

    @classmethod
    def from_words(cls, words: Iterable[tuple[str, str, str]]) -> "FormTable":
        """Builds the table from (form, lemma, tag) with Penn tags, keeping the most frequent form of each."""
        counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for form, lemma, tag in words:
            tag = "VB" if tag in ("VB", "VBP") else tag
            if (
                tag in ("VB", "VBZ", "VBD")
                and form.isalpha()
                and lemma.isalpha()
                and lemma not in ("be", "do", "have", "will", "can")
            ):
                counts[lemma.lower(), tag][form.lower()] += 1
        table = cls()
        for (lemma, tag), forms in counts.items():
            table.forms.setdefault(lemma, {})[tag] = forms.most_common(1)[0][0]
        for lemma, forms_of in table.forms.items():
            forms_of.setdefault("VB", lemma)
            forms_of.setdefault("VBZ", third_person(lemma))
            table.base.add(forms_of["VB"])
            for tag in ("VBZ", "VBD"):
                if tag in forms_of:
                    table.by_form.setdefault(tag, {})[forms_of[tag]] = lemma
        return table


def third_person(base: str) -> str:
    """The regular third person singular."""
    if re.search(r"(s|x|z|ch|sh|o)$", base):
        return base + "es"
    return base[:-1] + "ies" if re.search(r"[^aeiou]y$", base) else base + "s"


def move_tense(text: str, tense: str, table: FormTable, num_verbs: int) -> Moved | None:
    """Writes a sentence in the other tense, or gives up.

    Args:
        text: a sentence all of whose finite verbs are in `tense`.
        tense: `present` or `past`.
        table: verb forms.
        num_verbs: how many finite verbs it must have; another count means that the rules missed or invented one.
    """
    tokens = [(m.group(), m.start(), m.end()) for m in WORD.finditer(text)]
    words = [split for token in tokens for split in _split_contraction(*token)]
    lower = [w.lower() for w, _, _ in words]
    if BLOCKERS & set(lower):
        return None
    rule = _to_past if tense == "present" else _to_present
    changes = [(i, new) for i in range(len(words)) if (new := rule(lower, i, table)) is not None]
    if len(changes) != num_verbs:
        return None
    carried = [words[j][1:] for i, _ in changes if lower[i] in DO_FORMS for j in _carried_infinitive(lower, i, table)]
    edits: list[tuple[Span, str]] = [(span, text[slice(*span)]) for span in carried]
    for i, new in changes:
        word, start, end = words[i]
        edits.append(((start, end), " " + new if word.startswith("'") else new.capitalize() if i == 0 else new))
    return _apply(text, sorted(set(edits)))


def _apply(text: str, edits: list[tuple[Span, str]]) -> Moved:
    """Replaces spans, keeping track of where each comes to lie."""
    target, last, spans = "", 0, []
    for (start, end), new in edits:
        target += text[last:start] + new
        spans.append((len(target) - len(new.lstrip()), len(target)))
        last = end
    return Moved(text, target + text[last:], tuple(span for span, _ in edits), tuple(spans))


def _split_contraction(word: str, start: int, end: int) -> list[Token]:
    for tail in CONTRACTED:
        host = word[: -len(tail)]
        if word.lower().endswith(tail) and host and (tail != "'s" or host.lower() in HOSTS_OF_IS):
            return [(host, start, end - len(tail)), (word[-len(tail) :], end - len(tail), end)]
    match = re.fullmatch(r"(?i)([a-z]+)('ll|'d|'ve)", word)
    if match:
        return [(match[1], start, start + len(match[1])), (match[2], start + len(match[1]), end)]
    return [(word, start, end)]


def _carried_infinitive(lower: list[str], i: int, table: FormTable) -> list[int]:
    """The place of the infinitive under do-support: the first base form within the next few words."""
    near = range(i + 1, min(i + 6, len(lower)))
    return [j for j in near if lower[j] in table.base or lower[j] in ("have", "do")][:1]


def _subject(lower: list[str], i: int) -> str:
    """The word before a verb, adverbs skipped."""
    j = i - 1
    while j >= 0 and (lower[j] in ADVERBS or lower[j].endswith("ly")):
        j -= 1
    return lower[j] if j >= 0 else ""


def _to_past(lower: list[str], i: int, table: FormTable) -> str | None:
    word, subject = lower[i], _subject(lower, i)
    if word in CONTRACTED:
        return AUXILIARIES[CONTRACTED[word]]
    if word in AUXILIARIES or word in NEGATED:
        return AUXILIARIES.get(word) or NEGATED[word]
    if word == "have":
        return "had" if subject in SUBJECTS_OF_BASE else None
    if word == "do":
        following = lower[i + 1 : i + 2]
        return "did" if subject in SUBJECTS_OF_BASE or (following and _is_subject(following[0])) else None
    lemma = table.by_form.get("VBZ", {}).get(word)
    if lemma is not None and subject not in (
        "the",
        "a",
        "my",
        "your",
        "his",
        "her",
        "our",
        "their",
        "of",
        "many",
        "some",
    ):
        return table.forms[lemma].get("VBD")
    if word in table.base and subject in SUBJECTS_OF_BASE and not _under_auxiliary(lower, i):
        return table.forms[word].get("VBD") if word in table.forms else None
    return None


def _under_auxiliary(lower: list[str], i: int) -> bool:
    """Whether one of the few words before takes an infinitive: *do you know*, *let us go*."""
    return bool(NO_FINITE_AFTER & set(lower[max(0, i - 3) : i]))


def _is_subject(word: str) -> bool:
    return word in SUBJECTS_OF_BASE or word in ("the", "your", "my", "our", "their", "all", "any")


def _to_present(lower: list[str], i: int, table: FormTable) -> str | None:
    word = lower[i]
    plural = _subject(lower, i) in SUBJECTS_OF_BASE
    following = lower[i + 1] if i + 1 < len(lower) else ""
    first = "i" in (_subject(lower, i), following)
    if word in ("was", "wasn't"):
        return ("am" if word == "was" else None) if first else {"was": "is", "wasn't": "isn't"}[word]
    simple = {"were": "are", "weren't": "aren't", "could": "can", "couldn't": "can't"}
    if word in simple:
        return simple[word]
    if word == "had":
        return "have" if plural else "has"
    if word in ("did", "didn't"):
        many = plural if word == "didn't" and _subject(lower, i) else _is_subject(following) or plural
        return {"did": ("does", "do"), "didn't": ("doesn't", "don't")}[word][many]
    lemma = table.by_form.get("VBD", {}).get(word)
    if lemma is None or {_subject(lower, i), *lower[max(0, i - 2) : i]} & BE_OR_HAVE:
        return None
    if word in table.base or _under_auxiliary(lower, i) or not _subject(lower, i):
        return None
    return table.forms[lemma]["VB" if plural or _plural_noun(lower, i) else "VBZ"]


def _plural_noun(lower: list[str], i: int) -> bool:
    subject = _subject(lower, i)
    joined = len(lower) > 2 and "and" in lower[max(0, i - 3) : i]
    return joined or (
        subject.endswith("s") and not subject.endswith("ss") and subject not in ("this", "tomas", "james")
    )
