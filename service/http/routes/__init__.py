"""The routes, a module per theme; each has `add(app, services)`.

Imports the rest of the HTTP application but `app`, and the engine's types.
"""
