"""Factors of the neurons that fire over one text (Alammar 2020, “Interfaces for Explaining Transformer Models”)."""

import warnings
from typing import Any

import numpy as np
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from neurodial.control.errors import BadInput
from neurodial.interpret.methods.contracts import GroupMethod, Properties, check_activations
from neurodial.interpret.methods.grouping.clustering import number_by_first
from neurodial.interpret.methods.registry import register

Array = np.ndarray[Any, Any]


@register
class NeuronFactors(GroupMethod):
    """Groups neurons by the tokens at which they fire together.

    The activations A of one text, (tokens, neurons), are approximated by non-negative factors,

        max(A, 0) ≈ W H,   W ≥ 0 (tokens, k),   H ≥ 0 (k, neurons):

    a factor is a pattern over the tokens and the neurons that follow it. Clipping loses what a signed FFN such as
    SwiGLU says below zero: with `signs="both"` the positive and the negative part of every neuron are two columns.

    Args:
        factors: k; at most the number of tokens.
        signs: `positive` as published, or `both`.
        seed: of the solver.
        max_iterations: of the solver.

    Attributes:
        tokens_: (tokens, k) W: how present each factor is at each token.
        neurons_: (k, neurons) H; with both signs, negative where a neuron takes part by going down.
        error_: ‖A⁺ − W H‖ / ‖A⁺‖.
    """

    slug = "nmf"
    properties = Properties(
        "local", "neurons → neurons", "low", human=True, supervision=False, causal=False, source="Alammar 2020"
    )

    def __init__(self, factors: int = 10, signs: str = "positive", seed: int = 0, max_iterations: int = 400) -> None:
        self.factors = factors
        self.signs = signs
        self.seed = seed
        self.max_iterations = max_iterations

    def fit(self, X: Array) -> "NeuronFactors":
        """Factorises one text's activations; see `GroupMethod.fit`."""
        rows = check_activations(X)
        if self.signs not in ("positive", "both"):
            raise BadInput(f"signs={self.signs!r} is neither 'positive' nor 'both'", param="signs")
        if self.factors < 1:
            raise BadInput("factors must be at least 1", param="factors")
        above = np.maximum(rows, 0)
        target = above if self.signs == "positive" else np.hstack([above, np.maximum(-rows, 0)])
        if not target.any():
            raise BadInput("no neuron fires above zero: there is nothing to factorise", hint='signs="both" looks below')
        model = NMF(
            min(self.factors, *target.shape), init="nndsvda", random_state=self.seed, max_iter=self.max_iterations
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the error that is left is reported
            self.tokens_ = model.fit_transform(target)
        self.error_ = float(np.linalg.norm(target - self.tokens_ @ model.components_) / np.linalg.norm(target))
        self.neurons_ = model.components_
        if self.signs == "both":
            up, down = np.split(model.components_, 2, axis=1)
            self.neurons_ = np.where(up >= down, up, -down)
        strongest = np.abs(self.neurons_).argmax(axis=0)
        silent = ~self.neurons_.any(axis=0)
        self.labels_ = np.where(silent, -1, 0)
        self.labels_[~silent] = number_by_first(strongest[~silent])
        used = [strongest[self.labels_ == group][0] for group in range(self.labels_.max() + 1)]
        self.representatives_ = np.array([np.abs(self.neurons_[f]).argmax() for f in used], dtype=np.int64)
        return self
