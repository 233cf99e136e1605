"""The engine: submit a request, receive its events, cancel it. Pure state and threads; no torch.

Imports control and `observability`; `model` is the room of what touches torch.
"""
