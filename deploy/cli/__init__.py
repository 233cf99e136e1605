"""The `neurodial` command: each command in a module of its own, imported only when it is used.

Imports everything; `find` discovers and explains, `change` makes models, `run` serves and publishes.
"""
