"""A linear ranking that sees what neurons say together: one after the other leaves, and the others take over."""

from typing import Any

import numpy as np

from neurodial.interpret.studies.distillation.linear import Fitted, fit, standardised

Array = np.ndarray[Any, Any]
REFITTED = 0.5  # of the neurons are left when the classifier is trained anew
AT_ONCE = 0.02  # of the neurons leave together


def elimination_order(x: Array, y: Array, strength: float) -> Array:
    """(neurons,) columns by when they go, the last first.

    The neurons go whose leaving raises the classifier's penalised loss least when the weights of all others adjust to
    it, to second order: Σ over labels of w² / [H⁻¹] of the neuron (Hassibi & Stork 1993, “Second Order Derivatives for
    Network Pruning: Optimal Brain Surgeon”, equation 5). So of neurons that say the same one stays, and a small weight
    that nothing else could carry stays, too, unlike in a ranking by weights. The classifier is trained anew whenever
    half of the neurons are gone, as in recursive elimination (Guyon et al. 2002).

    Args:
        x: (rows, neurons) activations.
        y: (rows,) numbers of labels.
        strength: inverse of the L2 penalty.
    """
    standard = standardised(x)
    left, gone = np.arange(x.shape[1]), list[Array]()
    while len(left) > 1:
        rows, staying = standard[:, left], int(REFITTED * len(left))
        order = _leave(rows, fit(rows, y, np.arange(len(left)), strength), staying)
        gone.insert(0, left[order[staying:]])
        left = left[order[:staying]]
    found: Array = np.concatenate([left, *gone])
    return found


def _leave(x: Array, fitted: Fitted, staying: int) -> Array:
    """(neurons,) columns: those that stay, then those that leave, the first to leave at the end."""
    weights, inverse = fitted.weights.astype(np.float64), np.linalg.inv(_curvature(x, fitted))
    left, gone = np.arange(x.shape[1]), list[Array]()
    while len(left) > staying:
        rise = (weights**2).sum(axis=0) / inverse.diagonal()
        count = min(max(1, int(AT_ONCE * len(left))), len(left) - staying)
        order = np.argsort(rise, kind="stable")
        going, stay = order[:count], np.sort(order[count:])
        share = np.linalg.solve(inverse[np.ix_(going, going)], inverse[np.ix_(going, stay)])
        weights = weights[:, stay] - weights[:, going] @ share
        inverse = inverse[np.ix_(stay, stay)] - inverse[np.ix_(stay, going)] @ share
        gone.insert(0, left[going[::-1]])
        left = left[stay]
    found: Array = np.concatenate([left, *gone])
    return found


def _curvature(x: Array, fitted: Fitted) -> Array:
    """(neurons, neurons) second derivatives of the penalised loss, the mean of those by each label's weights."""
    logits = x @ fitted.weights.T + fitted.bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    likely = powers / powers.sum(axis=1, keepdims=True)
    weighed = x * (likely * (1 - likely)).mean(axis=1, keepdims=True)
    found: Array = (weighed.T @ x).astype(np.float64)
    found[np.diag_indices(len(found))] += 1 / fitted.strength
    return found
