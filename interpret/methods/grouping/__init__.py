"""Methods that say which neurons belong together.

Imports `methods.contracts`, `methods.registry` and the rooms up to `tasks`.
"""
