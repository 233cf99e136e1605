"""What the causal effect is measured on: held-out inputs of a concept with what the model should say of them.

| Model | Corpus | Inputs | Score |
|---|---|---|---|
| encoder–decoder | minimal pairs | a sentence | log p of the model's own output for the other sentence − for this one |
| another | minimal pairs | the words before the last one that differs | log p of the other's word − of its own |
| any | labels alone | a text | − log p of the model's own output (encoder–decoder), or of the text |

Scores are in nats per token, so that *up* is always away from the input's label: towards the other label where there
are pairs, and towards being wrong where there are none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.control.text.words import differing_words, split_words, word_spans
from neurodial.interpret.activations.generation import generate_ids
from neurodial.interpret.activations.losses import TokenRow, loss_batch, why_no_loss
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.corpora.grammars.agreement import generate_agreement
from neurodial.interpret.tasks.tasks import Batch, next_tokens, prompt_of

ROWS = 32  # of a batch
PHRASES = ("simple", "thing", "prepositional", "thing_prepositional", "two_prepositional")  # no verb before the verb
OUTPUT, WORD, TEXT = (
    "log p of the output for the other sentence − for this one",
    "log p of the other sentence's word − of this one's",
    "− log p of what the model says of the text by itself",
)


@dataclass(frozen=True)
class Part:
    """One batch of inputs.

    Attributes:
        own: what the model should say of them; with foils, of which the score is taken off.
        other: the same inputs with what it should say had they the other label, or None.
    """

    own: Batch
    other: Batch | None = None


@dataclass(frozen=True)
class Cases:
    """Held-out inputs.

    Attributes:
        measure: what the score is.
        parts: label → batches of the inputs that have it.
        pairs: label → number of the minimal pair of each input; empty where there are none.
    """

    measure: str
    parts: dict[str, list[Part]]
    pairs: dict[str, list[int]]

    @property
    def paired(self) -> bool:
        """Whether moving to the other label has a known end: its own inputs' score."""
        return bool(self.pairs)

    def examples(self, label: str) -> int:
        """Number of inputs with a label."""
        return sum(part.own.rows for part in self.parts[label])


def concept_cases(loaded: LoadedModel, corpus: Corpus, limit: int) -> Cases:
    """Cases from the held-out part of a corpus, at most `limit` of a label.

    Raises:
        BadInput: saying why there are none.
    """
    if why := why_no_loss(loaded):
        raise BadInput(f"{loaded.name} predicts no tokens: {why}")
    held_out = [example for example in corpus if example.split != "train"]
    if corpus.paired and len(corpus.labels) == 2:
        pairs = _pairs(held_out, corpus.labels)
        if loaded.family == "encoder-decoder":
            return _output_cases(loaded, corpus.labels, pairs, limit)
        if found := _word_cases(loaded, corpus.labels, pairs, limit):
            return found
    return _text_cases(loaded, corpus.labels, held_out, limit)


def other_texts(corpus: Corpus | None, limit: int) -> tuple[str, list[str]]:
    """Name and texts of what the off-target cost is measured on.

    By default the built-in agreement grammar's noun phrases, in which there is nothing for most concepts to change.
    """
    if corpus is None:
        written = generate_agreement(4 * limit, seed=1)
        return "noun phrases of grammar:agreement", [s.before for s in written if s.kind in PHRASES][:limit]
    return corpus.name, [example.source.text for example in corpus.drawn(limit)]


def text_parts(loaded: LoadedModel, texts: Sequence[str]) -> list[Part]:
    """Texts with what the model says of them by itself: its greedy output, or their own tokens.

    Raises:
        BadInput: if there is nothing to predict in them.
    """
    limit = loaded.max_length
    ids = [tuple(one) for one in loaded.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]]
    if loaded.family == "encoder-only":  # some tokens are masked, special ones never
        rows = [TokenRow(one) for one in ids if not set(one) <= set(loaded.tokenizer.all_special_ids)]
    elif loaded.family == "decoder-only":
        rows = [TokenRow(one) for one in ids if len(one) > 1]
    else:
        outputs = generate_ids(loaded, texts, max_new_tokens=min(64, limit - 1))
        rows = [TokenRow(source, tuple(out)) for source, out in zip(ids, outputs, strict=True)]
    if not rows:
        raise BadInput("the model's tokenizer knows no token of the texts whose log-probability is asked for")
    return [Part(own) for own in _batches(loaded, sorted(rows, key=TokenRow.longest))]


def _batches(loaded: LoadedModel, rows: Sequence[TokenRow]) -> Iterator[Batch]:
    draw = torch.Generator().manual_seed(0)  # of the masks of encoder-only models
    for start in range(0, len(rows), ROWS):
        made = loss_batch(loaded, rows[start : start + ROWS], draw)
        yield Batch(made.inputs, made.labels)


def _pairs(examples: Sequence[Example], labels: Sequence[str]) -> list[tuple[Example, Example]]:
    """The sentences of each minimal pair in the order of the labels, pairs in the order of the corpus."""
    found: dict[int, dict[str | None, Example]] = {}
    for example in examples:
        if example.pair is not None:
            found.setdefault(example.pair, {})[example.label] = example
    first, second = labels
    return [(both[first], both[second]) for both in found.values() if first in both and second in both]


def _output_cases(
    loaded: LoadedModel, labels: Sequence[str], pairs: Sequence[tuple[Example, Example]], limit: int
) -> Cases:
    """Sentences with the model's own outputs for themselves and for their other sentence."""
    longest = loaded.max_length
    fitting = _that_fit(loaded, pairs[: 2 * limit], longest)
    texts = [example.source.text for both, _ in fitting for example in both]
    sources = [ids for _, both in fitting for ids in both]
    outputs = [tuple(ids) for ids in generate_ids(loaded, texts, max_new_tokens=min(64, longest - 1))]
    switching = [i for i in range(0, len(texts), 2) if outputs[i] != outputs[i + 1]][:limit]
    if not switching:
        raise BadInput("the model says the same of both sentences of every held-out pair")
    switching.sort(key=lambda i: max(len(outputs[i]), len(outputs[i + 1])))
    parts: dict[str, list[Part]] = {}
    for side, label in enumerate(labels):
        own, other = (
            list(_batches(loaded, [TokenRow(sources[i + side], outputs[i + said]) for i in switching]))
            for said in (side, 1 - side)
        )
        parts[label] = [Part(*both) for both in zip(own, other, strict=True)]
    numbers = [fitting[i // 2][0][0].pair or 0 for i in switching]
    return Cases(OUTPUT, parts, dict.fromkeys(labels, numbers))


def _that_fit(
    loaded: LoadedModel, pairs: Sequence[tuple[Example, Example]], longest: int
) -> list[tuple[tuple[Example, Example], list[tuple[int, ...]]]]:
    """The pairs neither of whose sentences is longer than the model reads, with the tokens of both."""
    tokens = ([tuple(ids) for ids in loaded.tokenizer([e.source.text for e in both])["input_ids"]] for both in pairs)
    return [(both, ids) for both, ids in zip(pairs, tokens, strict=True) if max(map(len, ids)) <= longest]


def _word_cases(
    loaded: LoadedModel, labels: Sequence[str], pairs: Sequence[tuple[Example, Example]], limit: int
) -> Cases | None:
    """The last word in which the sentences of a pair differ, asked of the words before it or of a mask."""
    parts: dict[str, list[Part]] = {}
    numbers: dict[str, list[int]] = {}
    for side, label in enumerate(labels):
        asked = ((_asked(loaded, both[side].source, both[1 - side].source), both[side].pair or 0) for both in pairs)
        kept = list(islice(((*one, pair) for one, pair in asked if one and _tells_apart(loaded, *one)), limit))
        if not kept:
            return None
        kept.sort(key=lambda one: len(prompt_of(loaded, *one[:3]).ids))  # as batches are made
        prompts, words, foils, found = zip(*kept, strict=True)
        parts[label] = [Part(batch) for batch in next_tokens(loaded, prompts, words, foils, batch=ROWS)]
        numbers[label] = list(found)
    return Cases(WORD, parts, numbers)


def _asked(loaded: LoadedModel, here: Sentence, there: Sentence) -> tuple[str, str, str] | None:
    """Prompt, word and foil of a pair, if something stands before the word."""
    places = differing_words(split_words(here.text), split_words(there.text))
    if not places:
        return None
    (start, end), (other_start, other_end) = word_spans(here.text)[places[-1][0]], word_spans(there.text)[places[-1][1]]
    word, foil = here.text[start:end], there.text[other_start:other_end]
    if loaded.family == "encoder-only":
        mask = loaded.tokenizer.mask_token
        return (here.text[:start] + str(mask) + here.text[end:], word, foil) if mask else None
    before = here.text[:start].rstrip()
    space = " " if len(before) < start else ""
    return (before, space + word, space + foil) if before else None


def _tells_apart(loaded: LoadedModel, prompt: str, word: str, foil: str) -> bool:
    """Whether the first tokens of word and foil differ behind the prompt."""
    try:
        next_tokens(loaded, [prompt], [word], [foil])
    except BadInput:
        return False
    return True


def _text_cases(loaded: LoadedModel, labels: Sequence[str], examples: Sequence[Example], limit: int) -> Cases:
    parts = {}
    for label in labels:
        texts = [e.source.text for e in examples if label in _labels(e)][:limit]
        if texts:
            parts[label] = text_parts(loaded, texts)
    if not parts:
        raise BadInput("no held-out example has a label")
    return Cases(TEXT, parts, {})


def _labels(example: Example) -> set[str | None]:
    """All labels of an example, of its words on either side among them."""
    return {example.label, *example.source.labels, *(example.target.labels if example.target else ())}
