"""Text made up for a neuron (Poerner et al. 2018, “Interpretable Textual Neuron Representations for NLP”)."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from neurodial.control.errors import BadInput
from neurodial.interpret.common.progress import progress
from neurodial.interpret.methods.contracts import ExplanationMethod, Properties
from neurodial.interpret.methods.explanations import Concept, Context, Explanation
from neurodial.interpret.methods.observations import Observations
from neurodial.interpret.methods.registry import register
from neurodial.interpret.methods.responding import NeuronModel

Array = np.ndarray[Any, Any]
HOTTEST, COLDEST = 2.0, 0.1  # temperature at the first and at the last step, as published
FLOOR = 0.1  # share of a word's probability that the prior takes from unigrams, where bigrams were not seen
WARM = 2.0  # log-odds, against all other tokens together, of a text's first tokens where it starts from an n-gram
ROUNDING = 1e-4  # relative difference of two activations that may be the same one
CHECKED = 5  # steps between looks at the hard texts


@register
class CorpusGeneration(ExplanationMethod):
    """Makes up the text that drives a neuron highest.

    A text of L tokens out of V is relaxed to logits θ ∈ R^{L×V} and

        x = softmax((log softmax θ + g) / τ),   g ~ Gumbel(0, 1),

    mixtures of tokens whose embeddings x·E the model reads; Adam climbs the neuron's largest value over the text
    while the temperature τ falls from 2 to 0.1. Half of the texts start from the corpus's n-grams at which the neuron
    is highest, since it may have no gradient elsewhere. What counts is the hard text, argmax θ. A fluency prior keeps
    it near language: `fluency` times the mean log-probability of its tokens under a bigram model of the corpus is added
    to the activation, whose unit is its range over random n-grams of the corpus. A
    neuron gets a label only where the text exceeds as many random n-grams as texts were looked at.

    Args:
        length: L.
        texts: texts that are optimised together.
        steps: of Adam; it stops earlier when the best hard text has not changed for `patience` steps.
        rate: of Adam.
        fluency: weight of the prior, in units of the activation for a nat; 0 without.
        patience: see steps.
        seed: of everything random.

    Attributes:
        best_: (neurons,) activation of the best hard text.
        random_: (neurons,) highest activation of the random n-grams.
    """

    slug = "corpus-generation"
    needs_model = True
    properties = Properties(
        "global", "neuron → concept", "low", human=True, supervision=False, causal=False, source="Poerner et al. 2018"
    )

    def __init__(
        self,
        length: int = 5,
        texts: int = 16,
        steps: int = 200,
        rate: float = 0.3,
        fluency: float = 0.1,
        patience: int = 100,
        seed: int = 0,
    ) -> None:
        self.length = length
        self.texts = texts
        self.steps = steps
        self.rate = rate
        self.fluency = fluency
        self.patience = patience
        self.seed = seed

    def fit(self, X: Observations, model: NeuronModel | None = None) -> "CorpusGeneration":
        """Reads the corpus for the prior, then optimises for each neuron; see `ExplanationMethod.fit`."""
        for name in ("length", "texts", "steps", "patience"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1", param=name)
        if self.rate <= 0 or self.fluency < 0:
            raise BadInput("rate must be above 0 and fluency not below")
        asked = self._model(model)
        prior = Prior.of([asked.tokens(one.sentence.text) for one in X.checked()], len(asked.vocabulary), self.length)
        free = torch.tensor([token is not None for token in asked.vocabulary])
        count = self.texts * (self.steps // CHECKED + 1)
        grams = prior.random(np.random.default_rng(self.seed), count)
        drawn = np.concatenate([_hard(asked, part).amax(dim=1).numpy() for part in grams.split(64)])
        self.random_, scale = drawn.max(axis=0), np.maximum(np.ptp(drawn, axis=0), 1e-12)
        made, best = [], []
        with progress("Texts", len(X.neurons) * self.steps) as advance:
            for column, name in enumerate(X.neurons):
                score = _Score(asked, prior, free, column, float(scale[column]), self.fluency)
                highest = grams[np.argsort(-drawn[:, column], kind="stable")]
                tokens, found = self._optimise(score, highest, advance)
                best.append(float(found))
                made.append(self._explain(name, column, asked, tokens, score, drawn[:, column], grams))
        self.best_ = np.array(best)
        self.explanations_ = tuple(made)
        return self

    def _optimise(self, score: "_Score", start: torch.Tensor, advance: Any) -> tuple[torch.Tensor, float]:
        """The best hard text, (length,), and the neuron's value on it."""
        draw = torch.Generator().manual_seed(self.seed)
        size = (self.texts, self.length, len(score.free))
        theta = 0.01 * torch.randn(size, generator=draw)
        # a neuron behind a ReLU has no gradient where it is silent: half of the texts start where it speaks
        warm = start[: self.texts // 2]
        theta[: len(warm)].scatter_(-1, warm[..., None], WARM + float(np.log(len(score.free))))
        theta.requires_grad_()
        adam = torch.optim.Adam([theta], lr=self.rate)
        best, tokens, since = -np.inf, torch.zeros(self.length, dtype=torch.long), 0
        for step in range(self.steps):
            tau = HOTTEST * (COLDEST / HOTTEST) ** (step / max(self.steps - 1, 1))
            logits = torch.log_softmax(theta.masked_fill(~score.free, -torch.inf), dim=-1)
            noise = -torch.empty(size).exponential_(generator=draw).clamp_min(1e-10).log()
            x = torch.softmax((logits + noise) / tau, dim=-1)
            (theta.grad,) = torch.autograd.grad(-score(x).sum(), theta)
            adam.step()
            advance(1)
            if step % CHECKED == 0 or step == self.steps - 1:
                hard = theta.detach().masked_fill(~score.free, -torch.inf).argmax(dim=-1)
                values = score.hard(hard)
                since += CHECKED
                if float(values.max()) > best + 1e-6:
                    best, tokens, since = float(values.max()), hard[int(values.argmax())], 0
            if since >= self.patience:
                advance(self.steps - step - 1)
                break
        return tokens, float(_hard(score.model, tokens[None])[0, :, score.column].max())

    def _explain(
        self,
        name: str,
        column: int,
        model: NeuronModel,
        tokens: torch.Tensor,
        score: "_Score",
        drawn: Array,
        grams: torch.Tensor,
    ) -> Explanation:
        values = _hard(model, tokens[None])[0, :, column]
        best, highest = float(values.max()), float(drawn.max())
        sure = best - highest > ROUNDING * max(abs(best), abs(highest), score.scale)  # not the same text, rounded
        made = _context(model, tokens.tolist(), values.tolist(), "made up")
        champion = grams[int(drawn.argmax())]
        found = _context(
            model, champion.tolist(), _hard(model, champion[None])[0, :, column].tolist(), "best random n-gram"
        )
        text = model.spell(tokens.tolist())
        figures = {
            "made up": best,
            "best of random n-grams": highest,
            "mean of random n-grams": float(drawn.mean()),
            "nats per token": -float(score.prior.log_likelihood(tokens[None])[0]),
        }
        concepts = (Concept(text, round(best, 4)), Concept(model.spell(champion.tolist()), round(highest, 4)))
        return Explanation(
            name, self.slug, text if sure else "", "activation", best if sure else 0.0, concepts, (made, found), figures
        )


@dataclass(frozen=True)
class _Score:
    """What is climbed: the neuron's largest value over the text in units of scale, and the prior."""

    model: NeuronModel
    prior: "Prior"
    free: torch.Tensor
    column: int
    scale: float
    fluency: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(texts,) of (texts, length, tokens) mixtures."""
        value = self.model.soft(x)[..., self.column].amax(dim=1) / self.scale
        return value + self.fluency * self.prior.log_likelihood_soft(x) if self.fluency else value

    def hard(self, tokens: torch.Tensor) -> torch.Tensor:
        """(texts,) of (texts, length) tokens."""
        value = _hard(self.model, tokens)[..., self.column].amax(dim=1) / self.scale
        return value + self.fluency * self.prior.log_likelihood(tokens) if self.fluency else value


@dataclass(frozen=True)
class Prior:
    """A bigram model of a corpus: p(b | a) = 0.9 · c(a, b) / c(a) + 0.1 · p(b), p(b) smoothed by one.

    Attributes:
        single: (tokens,) p(b).
        following: (tokens, tokens) sparse, its rows c(a, b) / c(a).
        texts: the corpus's texts that are long enough to draw n-grams from.
        length: of these n-grams.
    """

    single: torch.Tensor
    following: torch.Tensor
    texts: tuple[tuple[int, ...], ...]
    length: int

    @classmethod
    def of(cls, texts: list[list[int]], size: int, length: int) -> "Prior":
        """Counts a corpus's tokens.

        Raises:
            BadInput: if no text is as long as the one to be made up.
        """
        long = tuple(tuple(text) for text in texts if len(text) >= length)
        if not long:
            raise BadInput(f"no text of the corpus has {length} tokens", param="length", hint="a smaller length")
        counts = torch.ones(size)
        pairs: Counter[tuple[int, int]] = Counter()
        for text in texts:
            counts += torch.bincount(torch.tensor(text, dtype=torch.long), minlength=size)
            pairs.update(pairwise(text))
        places = torch.tensor(sorted(pairs), dtype=torch.long).reshape(-1, 2).T
        values = torch.tensor([float(pairs[pair]) for pair in sorted(pairs)])
        totals = torch.zeros(size).index_add_(0, places[0], values)
        following = torch.sparse_coo_tensor(
            places, values / totals[places[0]], (size, size), check_invariants=True
        ).coalesce()
        return cls(counts / counts.sum(), following, long, length)

    def random(self, draw: np.random.Generator, count: int) -> torch.Tensor:
        """(count, length) n-grams of the corpus's texts."""
        chosen = draw.integers(len(self.texts), size=count)
        starts = [int(draw.integers(len(self.texts[i]) - self.length + 1)) for i in chosen]
        return torch.tensor([self.texts[i][s : s + self.length] for i, s in zip(chosen, starts, strict=True)])

    def log_likelihood(self, tokens: torch.Tensor) -> torch.Tensor:
        """(texts,) mean log-probability per token of (texts, length) tokens."""
        return self.log_likelihood_soft(torch.nn.functional.one_hot(tokens, len(self.single)).float())

    def log_likelihood_soft(self, x: torch.Tensor) -> torch.Tensor:
        """(texts,) of (texts, length, tokens) mixtures: each token's expected log-probability after the one before."""
        texts, length, size = x.shape
        before = x[:, :-1].reshape(-1, size)
        expected = torch.sparse.mm(self.following.T, before.T).T.reshape(texts, length - 1, size)
        probability = (1 - FLOOR) * expected + FLOOR * self.single
        first = (x[:, 0] * self.single.log()).sum(dim=-1)
        rest = (x[:, 1:] * probability.log()).sum(dim=(1, 2))
        mean: torch.Tensor = (first + rest) / length
        return mean


@torch.no_grad()
def _hard(model: NeuronModel, tokens: torch.Tensor) -> torch.Tensor:
    """(texts, length, neurons) activations on (texts, length) tokens."""
    return model.soft(torch.nn.functional.one_hot(tokens, len(model.vocabulary)).float()).float().cpu()


def _context(model: NeuronModel, tokens: list[int], values: list[float], note: str) -> Context:
    """Tokens as they are spelled one by one, in colours."""
    spelled = [(model.vocabulary[token] or "").replace("▁", " ").replace("Ġ", " ") for token in tokens]
    text, spans = "", []
    for piece in spelled:
        body = piece.strip()
        text += " " if text and piece != body else ""
        spans.append((len(text), len(text) + len(body)))
        text += body
    peak = int(np.argmax(values))
    return Context(text, tuple(spans), tuple(values), values[peak], peak, note=note)
