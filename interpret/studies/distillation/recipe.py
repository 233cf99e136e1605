"""What is asked of a distillation: the tolerances of the three steps, the budget, and how the corpus is used."""

from dataclasses import dataclass

from neurodial.control.errors import BadInput
from neurodial.control.text.pooling import SentencePooling, WordPooling

SIZES = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5)
PENALTIES = (3e-3, 1e-2)
ELIMINATIONS = (0.01, 0.2)
STRENGTHS = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Recipe:
    """The three steps of Dalvi et al. 2020 (“Analyzing Redundancy in Pretrained Transformer Models”, section 6).

    Attributes:
        budget: largest share of the stack's residual neurons, of all layers together, that may be kept.
        layer_tolerance: δ_L: the lowest layer is taken up to which dev accuracy exceeds (1 − δ_L) of all layers'.
        neuron_tolerance: δ_N: the fewest neurons are taken with which dev accuracy exceeds (1 − δ_N) of all neurons'.
        correlation: neurons whose |ρ| averages more than this are one cluster, of which one is kept.
        sizes: shares of the stack's neurons that are tried; those above the budget are for the curve alone.
        penalties: λ₁ of linear rankings that are tried; dev decides.
        eliminations: inverses of the L2 penalty of linear rankings by elimination that are tried, too.
        strengths: inverses of the classifier's L2 penalty that are tried; dev decides.
        words: how a word's tokens become one row.
        sentences: how a text's do.
        dev_share: share of the corpus that is dev at a time.
        dev_rows: so many rows are dev, a fold after the other: a small corpus is cross-validated as a whole.
        test_share: share that is set apart for the test where no test corpus is given.
        max_rows: texts, or labelled words, of each part.
        seed: of the parts, the control task and the bootstrap.
    """

    budget: float = 0.1
    layer_tolerance: float = 0.01
    neuron_tolerance: float = 0.01
    correlation: float = 0.95
    sizes: tuple[float, ...] = SIZES
    penalties: tuple[float, ...] = PENALTIES
    eliminations: tuple[float, ...] = ELIMINATIONS
    strengths: tuple[float, ...] = STRENGTHS
    words: WordPooling = "last"
    sentences: SentencePooling = "mean"
    dev_share: float = 0.15
    dev_rows: int = 1_000
    test_share: float = 0.15
    max_rows: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("layer_tolerance", "neuron_tolerance", "correlation")}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise BadInput(f"{name} is {value:g}, not between 0 and 1", param=name)
        for name in ("dev_share", "test_share"):
            if not 0.01 <= getattr(self, name) <= 0.45:
                raise BadInput(f"{name} is {getattr(self, name):g}, not between 0.01 and 0.45", param=name)
        if not 0 < self.budget <= 1:
            raise BadInput(
                f"budget is {self.budget:g}, no share of the neurons", hint="0.1 keeps a tenth at most", param="budget"
            )
        if not self.sizes or not all(0 < size <= 1 for size in self.sizes):
            raise BadInput("sizes are shares of the neurons, between 0 and 1", param="sizes")
        if not self.penalties + self.eliminations:
            raise BadInput("penalties and eliminations are empty: there is no ranking", param="penalties")
        for name in ("strengths", "penalties", "eliminations"):
            if min(getattr(self, name), default=0 if name == "strengths" else 1) <= 0:
                raise BadInput(f"{name} are positive numbers", param=name)
        for name in ("max_rows", "dev_rows"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}", hint="at least some hundred are needed", param=name)

    def counts(self, total: int) -> tuple[list[int], int]:
        """Numbers of neurons that are tried, ascending, and the largest that the budget allows.

        Args:
            total: residual neurons of the stack.

        Raises:
            BadInput: if the budget is less than one neuron.
        """
        most = int(self.budget * total + 1e-9)
        if not most:
            raise BadInput(
                f"a budget of {self.budget:g} is no neuron at all: the stack has {total:,}",
                hint=f"at least {1 / total:.2g}",
                param="budget",
            )
        tried = {max(1, round(size * total)) for size in self.sizes} | {most}
        return sorted(tried), most
