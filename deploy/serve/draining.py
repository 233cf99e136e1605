"""Closing a server: nobody comes in any more, and those inside get time to end."""

import logging
import threading
import time
from typing import Any

from neurodial.deploy.serve.handles import CALL_ERRORS

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_ANSWER_S = 5.0  # for all ingresses together


def close_ingresses(ingress: Any, seconds: float, hurry: threading.Event) -> int:
    """Closes every ingress and waits until no request is inside.

    Args:
        ingress: the handle of the deployment.
        seconds: how long at most.
        hurry: ends the waiting when set.

    Returns:
        How many requests were still inside at the end.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            num_inside: int = sum(ingress.broadcast("close").results(timeout_s=_ANSWER_S))
        except (*CALL_ERRORS, TimeoutError) as error:
            logger.warning("the ingress does not answer; nothing is waited for: %s", error)
            return 0
        if num_inside == 0 or time.monotonic() >= deadline or hurry.wait(_LOOK_EVERY_S):
            return num_inside
