"""The error tree: one root, each class with its HTTP status, a stable code and whether a retry can help.

NeurodialError                500
├── BadInput                  400  what a user can mend
│   ├── AddressError               bad_address
│   ├── ControlError               bad_control
│   ├── NeuronSetError             bad_neuron_set   truncated, foreign or inconsistent artifact
│   │   └── FingerprintError       wrong_model      a set, calibration or ranking of another model
│   ├── CalibrationError           bad_calibration  truncated, foreign or inconsistent calibration
│   ├── CorpusError                bad_corpus
│   ├── StoreError                 bad_store        damaged or unfinished activations on disk, or no room for them
│   ├── ModelError                 bad_model        checkpoint or architecture that cannot be used
│   ├── PruningError               cannot_prune     neurons or heads that cannot be removed
│   ├── ConfigError                bad_config
│   └── LimitError                 limit_exceeded
├── NotFound                  404
├── Overloaded                429  retryable
├── Unavailable               503  retryable
│   └── EngineGone                 engine_gone      the engine died or stopped; another may serve the request
└── InternalError             500
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class NeurodialError(Exception):
    """Root of every error that Neurodial raises on purpose.

    Args:
        message: what was wrong and where, in one line.
        hint: what to do about it.
        param: the exact field of the request or configuration, such as `controls[1].neurons`.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or ""
        self.param = param

    def __reduce__(self) -> tuple[object, ...]:
        """Keeps hint and param when an error crosses a process boundary."""
        return _rebuild, (type(self), self.message, self.hint, self.param)


def _rebuild(kind: type[NeurodialError], message: str, hint: str, param: str | None) -> NeurodialError:
    return kind(message, hint=hint, param=param)


def choices(name: str, known: Iterable[str], *, said: str = "one of") -> str:
    """A hint for a name that is not known: what is meant, perhaps, and what there is.

    Examples:
        >>> choices("probless", ["ablation", "probeless"])
        'did you mean probeless? one of ablation, probeless'
    """
    there = list(known)
    return f"{did_you_mean(name, there)}{said} {', '.join(there) or 'none'}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that begins a hint, with a space behind it; empty where nothing is close."""
    close = get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]}? " if close else ""


class NeurodialWarning(UserWarning):
    """What went on, but not as one would expect.

    Args:
        message: what, in one line.
        hint: what to do about it.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}; {hint}")
        self.message, self.hint = message, hint


class BadInput(NeurodialError):
    """The request or file is wrong; sending it again unchanged cannot help."""

    status = 400
    code = "bad_input"


class AddressError(BadInput):
    """A neuron address that does not parse or does not exist in the model."""

    code = "bad_address"


class ControlError(BadInput):
    """A control that is malformed or cannot be applied."""

    code = "bad_control"


class NeuronSetError(BadInput):
    """A neuron-set file that is truncated, foreign or inconsistent."""

    code = "bad_neuron_set"


class FingerprintError(NeuronSetError):
    """A neuron set, calibration or ranking that was made for another model."""

    code = "wrong_model"


class CalibrationError(BadInput):
    """A calibration file that is truncated, foreign or inconsistent."""

    code = "bad_calibration"


class CorpusError(BadInput):
    """A corpus that cannot be read; the message names file and line."""

    code = "bad_corpus"


class StoreError(BadInput):
    """An activation store, or another tool's activations, that cannot be read, written or used here."""

    code = "bad_store"


class ModelError(BadInput):
    """A checkpoint that cannot be loaded or an architecture that is not known."""

    code = "bad_model"


class PruningError(BadInput):
    """Neurons or heads that cannot be removed, or not in this way."""

    code = "cannot_prune"


class ConfigError(BadInput):
    """A configuration file that is wrong; the message names the field."""

    code = "bad_config"


class LimitError(BadInput):
    """An input larger than this deployment or model accepts."""

    code = "limit_exceeded"


class NotFound(NeurodialError):
    """A model, neuron set or route that is not here."""

    status = 404
    code = "not_found"


class Overloaded(NeurodialError):
    """More requests than the queue takes."""

    status = 429
    code = "overloaded"
    retryable = True


class Unavailable(NeurodialError):
    """The engine is starting, stopping or dead."""

    status = 503
    code = "unavailable"
    retryable = True


class EngineGone(Unavailable):
    """The engine died or stopped before the request had ended; another one may serve it."""

    code = "engine_gone"


class InternalError(NeurodialError):
    """A defect on our side, or a model that produced values that are not numbers."""

    code = "internal_error"
