"""Methods that rank neurons by what changing them does.

Imports `methods.contracts`, `methods.registry` and the rooms up to `tasks`.
"""
