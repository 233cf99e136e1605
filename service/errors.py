"""Errors of the service beyond those of control, and how they name fields."""

from collections.abc import Iterable, Mapping, Sequence

from neurodial.control.errors import LimitError, NeurodialError, NotFound


class ModelNotFound(NotFound):
    """The request names a model that is not served."""

    code = "model_not_found"

    @classmethod
    def among(cls, model: str, known: Iterable[str]) -> "ModelNotFound":
        """Names the models that there are."""
        return cls(f"there is no model {model[:80]!r}", hint=f"known: {', '.join(known)}", param="model")


class ContextLengthExceeded(LimitError):
    """A prompt, or what is to be written after it, is longer than the model reads; OpenAI's clients know the code."""

    code = "context_length_exceeded"


class Unauthorized(NeurodialError):
    """The request carries no key that this server knows."""

    status = 401
    code = "invalid_api_key"


class Forbidden(NeurodialError):
    """The request's key may not do this."""

    status = 403
    code = "forbidden"


class Conflict(NeurodialError):
    """What is asked for does not go with how this server was set up."""

    status = 409
    code = "conflict"


class MethodNotAllowed(NeurodialError):
    """The route exists, but not with this method."""

    status = 405
    code = "method_not_allowed"


class WrongMediaType(NeurodialError):
    """The request's body is of another type than the route reads."""

    status = 415
    code = "wrong_media_type"


class BodyTimeout(NeurodialError):
    """The request's body did not arrive in time."""

    status = 408
    code = "body_timeout"


class BodyTooLarge(LimitError):
    """The request's body is larger than the deployment reads."""

    status = 413
    code = "body_too_large"


def renamed(error: NeurodialError, fields: Mapping[str, str]) -> NeurodialError:
    """An engine's error in the words of the request that led to it.

    Args:
        error: names a field as an engine knows it.
        fields: the engine's name → the request's.
    """
    known = error.param or ""
    if known not in fields:
        return error
    return type(error)(error.message.replace(known, fields[known]), hint=error.hint, param=fields[known])


def dotted(path: Sequence[int | str]) -> str:
    """`("controls", 1, "neurons")` as `controls[1].neurons`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text
