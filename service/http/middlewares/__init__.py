"""What every request passes before a route sees it: who may come in, who asks, and how much may be sent.

Pure ASGI, each a class that wraps an application. Imports `rendering`, and of other rooms `access` and the errors.
"""
