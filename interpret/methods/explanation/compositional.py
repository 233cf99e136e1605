"""Compositional explanations (Mu and Andreas 2020, “Compositional Explanations of Neurons”)."""

from collections import Counter
from typing import Any

import numpy as np

from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import BadInput
from neurodial.control.text.words import comparable
from neurodial.interpret.methods.contracts import ExplanationMethod, Properties
from neurodial.interpret.methods.explanation.formulas import Formula, iou, overlap_p, pack, popcount, search
from neurodial.interpret.methods.explanations import Concept, Explanation
from neurodial.interpret.methods.observations import Observation, Observations
from neurodial.interpret.methods.registry import register
from neurodial.interpret.methods.responding import NeuronModel

Array = np.ndarray[Any, Any]
MAX_VALUES = 200_000_000  # activations that are held at most, in bytes of a firing bit or four of a number
LEVEL = 0.01  # chance that of all neurons explained together one gets a formula that is none


@register
class Compositional(ExplanationMethod):
    """Finds the logical formula over concepts that is true where a neuron fires.

    With M_u the words at which neuron u fires, and F those for which a formula holds,

        IoU(u, F) = |M_u and F| / |M_u or F|,   score = IoU · λ^(|F| − 1),

    F built by AND, OR and AND NOT from concepts: the word, its label and, in treebanks, its lemma, parts of speech,
    features and relation. Beam search over bit-packed masks; formulas that hold for the same words are one formula, the
    shortest. It searches four fifths of the texts; a formula is an explanation only where it overlaps with the firing
    words of the others as an independent one of the same size would with a probability below .01 over the neurons asked
    about, and only neurons that fire at `min_firings` words are searched for one.

    Args:
        length: concepts of the longest formula.
        beam: formulas that are kept at each length.
        penalty: λ.
        fires: `positive` (a > 0) or `top` (the highest share of the words).
        share: of the words, for `top`; the paper takes 0.005 of an image's places.
        concepts: how many are used, the most frequent.
        min_count: words that a concept holds for.
        min_firings: words at which a neuron fires that is searched for a formula; the paper takes 500.

    Attributes:
        concepts_: names of the concepts.
        formulas_: per neuron its best Formula, None where no concept ever holds as it fires.
        by_length_: (neurons, length) best score of the formulas up to each length.
    """

    slug = "compositional"
    properties = Properties(
        "global", "concept → neurons", "high", human=False, supervision=True, causal=False,
        source="Mu and Andreas 2020",
    )  # fmt: skip

    def __init__(
        self,
        length: int = 3,
        beam: int = 10,
        penalty: float = 0.99,
        fires: str = "top",
        share: float = 0.02,
        concepts: int = 500,
        min_count: int = 10,
        min_firings: int = 10,
    ) -> None:
        self.length = length
        self.beam = beam
        self.penalty = penalty
        self.fires = fires
        self.share = share
        self.concepts = concepts
        self.min_count = min_count
        self.min_firings = min_firings

    def fit(self, X: Observations, model: NeuronModel | None = None) -> "Compositional":
        """One pass, then a search for each neuron; see `ExplanationMethod.fit`."""
        self._check()
        known, values, held_out = self._gather(X)
        counts = Counter(name for word in known for name in word)
        self.concepts_ = [n for n, count in counts.most_common(self.concepts) if self.min_count <= count < len(known)]
        if not self.concepts_:
            raise BadInput(
                f"no concept holds for {self.min_count} words",
                hint="give a larger or an annotated corpus, or a lower min_count",
            )
        number = {name: i for i, name in enumerate(self.concepts_)}
        holds = np.zeros((len(self.concepts_), len(known)), dtype=bool)
        for word, names in enumerate(known):
            holds[[number[name] for name in names if name in number], word] = True
        fired = self._fired(values)
        train, test = pack(holds[:, ~held_out]), pack(holds[:, held_out])
        self.formulas_, self.by_length_, made = [], np.zeros((len(X.neurons), self.length)), []
        for column, name in enumerate(X.neurons):
            own, other = pack(fired[column][~held_out]), pack(fired[column][held_out])
            enough = int(fired[column].sum()) >= self.min_firings
            best = search(own, train, length=self.length, beam=self.beam, penalty=self.penalty) if enough else []
            scores = [score for _, score in best] + [0.0] * (self.length - len(best))
            self.by_length_[column] = np.maximum.accumulate(scores)
            best.sort(key=lambda pair: (-pair[1], len(pair[0])))
            self.formulas_.append(best[0][0] if best else None)
            made.append(self._explain(name, best, (own, train), (other, test), int(held_out.sum()), len(X.neurons)))
        self.explanations_ = tuple(made)
        return self

    def _check(self) -> None:
        for name in ("length", "beam", "concepts", "min_count", "min_firings"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1", param=name)
        if not 0 < self.penalty <= 1:
            raise BadInput("penalty must be above 0 and at most 1", param="penalty")
        if self.fires not in ("positive", "top"):
            raise BadInput(f"fires={self.fires!r} is neither 'positive' nor 'top'", param="fires")
        if not 0 < self.share < 1:
            raise BadInput("share must be between 0 and 1", param="share")

    def _gather(self, X: Observations) -> tuple[list[list[str]], Array, Array]:
        """Concepts, (words, neurons) activations or firing, and whether the text is held out, of each word."""
        known: list[list[str]] = []
        values: list[Array] = []
        held_out: list[bool] = []
        size = 0
        for number, one in enumerate(X.checked()):
            known += word_concepts(one)
            values.append(one.values > 0 if self.fires == "positive" else one.values.astype(np.float32))
            held_out += [number % 5 == 4] * len(one.words)
            size += values[-1].nbytes
            if size > MAX_VALUES:
                raise BadInput(
                    f"{len(X.neurons)} neurons at more than {len(known):,} words do not fit into memory",
                    hint="explain fewer neurons at a time",
                )
        return known, np.concatenate(values), np.array(held_out)

    def _fired(self, values: Array) -> Array:
        """(neurons, words) bool."""
        if self.fires == "positive":
            return values.T
        ranked = np.sort(values, axis=0)
        threshold = ranked[-max(1, round(self.share * len(values)))]
        fired: Array = (values >= np.maximum(threshold, np.nextafter(ranked[0], np.float32(np.inf)))).T
        return fired

    def _explain(
        self,
        name: str,
        best: list[tuple[Formula, float]],
        train: tuple[Array, Array],
        test: tuple[Array, Array],
        words: int,
        neurons: int,
    ) -> Explanation:
        rows = []
        for formula, score in best:
            inside, outside = formula.mask(train[1]), formula.mask(test[1])
            details = {
                "IoU": round(iou(train[0], inside), 4),
                "IoU held out": round(iou(test[0], outside), 4),
                "p held out": float(f"{overlap_p(test[0], outside, words):.3g}"),
            }
            rows.append(Concept(formula.spelled(self.concepts_), round(score, 4), int(popcount(inside)), details))
        sure = bool(rows) and rows[0].details["p held out"] < LEVEL / neurons
        figures = {"firing words": float(popcount(train[0]) + popcount(test[0])), "words held out": float(words)}
        return Explanation(
            name,
            self.slug,
            rows[0].name if sure else "",
            "score",
            rows[0].score if sure else 0.0,
            tuple(rows),
            (),
            figures,
        )


def word_concepts(one: Observation) -> list[list[str]]:
    """The names of the concepts that hold for each word."""
    made = []
    for number, form in zip(one.words.tolist(), one.forms, strict=True):
        names = [f"word={comparable(form)}"]
        label = one.sentence.labels[number]
        if label not in (None, NONE_CLASS):
            names.append(f"label={label}")
        if one.sentence.annotations:
            said = one.sentence.annotations[number]
            named = (
                ("lemma", comparable(said.lemma)),
                ("upos", said.upos),
                ("xpos", said.xpos),
                ("deprel", said.deprel),
            )
            names += [f"{kind}={value}" for kind, value in named if value]
            names += said.feats
        made.append(names)
    return made
