"""What every process of a cluster needs in its environment; read when Ray Serve is imported.

`neurodial serve` and the container image set it. On a cluster that was started without it everything works, with more
time between the deployments, and with header overrides refused one step later.
"""

from neurodial.deploy.proxy import CALLBACK

SERVING = {
    # The proxy refuses headers by which clients could override limits.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": CALLBACK,
    # Deployments call one another without Ray's object store, which is made for large data, not for tokens.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    # gRPC would refuse answers above 4 MB; the application has limits of its own.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
    # One event loop in each replica: nothing of ours blocks it, and handing every token to another thread costs more.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
