"""The engine: submit a request, receive its events, cancel it."""
