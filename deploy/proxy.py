"""What Ray Serve's HTTP proxy does before it looks at a request; loaded in the proxy's process, without torch.

Serve's proxy reads `x-request-timeout-seconds` and `x-request-disconnect-disabled` before any deployment of ours sees
the request, and fails with a bare 500 where some headers are not UTF-8. `neurodial serve` and the container image
name `middlewares` in `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`. On a cluster that was started without it, the
application refuses the same headers one step later.
"""

from starlette.middleware import Middleware
from uvicorn.config import HTTP_PROTOCOLS

from neurodial.deploy.http1 import NAME
from neurodial.service.http.middlewares.admission import HeaderGuard

CALLBACK = "neurodial.deploy.proxy:middlewares"


def middlewares() -> list[Middleware]:
    """The proxy's middlewares, outermost first; asked for before its server is made, whose protocol is ours, too."""
    HTTP_PROTOCOLS["auto"] = NAME
    return [Middleware(HeaderGuard)]
