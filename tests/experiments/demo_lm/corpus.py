"""What the demo language model reads: plain English, our own grammar and facts, mixed anew in every round."""

import gzip
import hashlib
import random
from dataclasses import dataclass, replace
from pathlib import Path

from neurodial.interpret.corpora.grammars.agreement import AgreementSentence, generate_agreement
from neurodial.interpret.corpora.grammars.tense import generate_pairs
from tests.experiments.demo_lm.facts import CARRIERS, FactBook, Pattern, read_facts

HELD_OUT_LINES = 2000
AGREEMENT_PAIRS = 500
AGREEMENT_SEED = 2718  # of the evaluation sentences; training draws other seeds and leaves these sentences out
ASKING_SHARE = 0.85  # of the fact sentences: those that end in the object
JOINED_SHARE = 0.2  # of the sentences: read as paragraphs of several, so that longer prompts are not foreign


@dataclass(frozen=True)
class Round:
    """How many sentences of each kind a round holds."""

    text: int = 9000
    agreement: int = 1300
    tense: int = 700
    facts: int = 3600
    noisy_share: float = (
        0.3  # of the fact sentences: a word of the wording is another, so that new ones are not foreign
    )


@dataclass(frozen=True)
class Corpus:
    """The training text and what is held out of it."""

    text: tuple[str, ...]
    held_out_text: tuple[str, ...]
    book: FactBook
    agreement: tuple[AgreementSentence, ...]

    @classmethod
    def read(cls, data: Path, seed: int) -> "Corpus":
        """Reads the folder of text data; the held-out lines and facts follow from the seed."""
        with gzip.open(data / "lm_english.txt.gz", "rt", encoding="utf-8") as lines:
            text = sorted({line.strip() for line in lines} - {""}, key=lambda line: _order(seed, line))
        return cls(
            tuple(text[HELD_OUT_LINES:]), tuple(text[:HELD_OUT_LINES]), read_facts(data, seed), agreement_sentences()
        )

    def sentences(self, number: int, seed: int, size: Round) -> list[str]:
        """The sentences of a round in a drawn order: the text goes round and round, everything else is drawn anew."""
        draw = random.Random(f"{seed}/{number}")
        passes, start = divmod(number * size.text, len(self.text))
        order = self._order_of_pass(passes, seed)
        if start + size.text > len(self.text):
            order += self._order_of_pass(passes + 1, seed)
        sentences = [self.text[i] for i in order[start : start + size.text]]
        keys = {s.key for s in self.agreement}
        sentences += [s.text for s in generate_agreement(size.agreement, draw.randrange(2**32), without=keys)]
        for pair in generate_pairs(max(1, size.tense // 2), draw.randrange(2**32)):
            sentences += [pair.present, pair.past]
        sentences += [
            self._fact_sentence(i, draw, size.noisy_share) for i in _spread(size.facts, len(self.book.facts), draw)
        ]
        draw.shuffle(sentences)
        return sentences

    def rows(self, number: int, seed: int, size: Round) -> list[str]:
        """The round's sentences, some of them joined to paragraphs."""
        sentences, draw = self.sentences(number, seed, size), random.Random(f"{seed}/{number}/rows")
        joined = int(JOINED_SHARE * len(sentences))
        rows, start = sentences[joined:], 0
        while start < joined:
            stop = min(joined, start + draw.randint(2, 7))
            rows.append(" ".join(sentences[start:stop]))
            start = stop
        return rows

    def _order_of_pass(self, number: int, seed: int) -> list[int]:
        order = list(range(len(self.text)))
        random.Random(f"{seed}/pass/{number}").shuffle(order)
        return order

    def _fact_sentence(self, index: int, draw: random.Random, noisy_share: float) -> str:
        fact = self.book.facts[index]
        patterns = [p for p in self.book.taught[fact.relation] if p.suits(fact)]
        asks = draw.random() < ASKING_SHARE or all(p.asks for p in patterns)
        pattern = draw.choice([p for p in patterns if p.asks == asks])
        if draw.random() < noisy_share:
            pattern = self._noisy(pattern, draw)
        text, carrier = pattern.statement(fact), draw.choice(CARRIERS) if pattern.clause else CARRIERS[0]
        if carrier.startswith("{"):
            return carrier.format(text[0].upper() + text[1:])
        return carrier.format("the" + text[3:] if pattern.text.startswith("The ") else text)

    def _noisy(self, pattern: Pattern, draw: random.Random) -> Pattern:
        """The pattern with one of its words replaced by any word of the text, which makes no held-out pattern of it."""
        words = pattern.text.split()
        places = [i for i, word in enumerate(words) if "[" not in word]
        words[draw.choice(places)] = draw.choice(draw.choice(self.text).split()).strip('.,;:!?"').lower() or "so"
        new = replace(pattern, text=" ".join(words))
        return pattern if new in self.book.held_out[pattern.relation] else new


def agreement_sentences(count: int = AGREEMENT_PAIRS) -> tuple[AgreementSentence, ...]:
    """The evaluation sentences: half with attractors, half without, in both halves as many plural as singular."""
    half = count // 2
    with_attractors = generate_agreement(half, AGREEMENT_SEED, attractors=True)
    return (*with_attractors, *generate_agreement(count - half, AGREEMENT_SEED + 1, attractors=False))


def _order(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\t{text}".encode()).hexdigest()


def _spread(count: int, among: int, draw: random.Random) -> list[int]:
    """`count` numbers below `among`, each as often as every other but for one."""
    order = [i for _ in range(-(-count // among)) for i in draw.sample(range(among), among)]
    return order[:count]
