"""Online, one process: request schemas, the engine and the ASGI application."""
