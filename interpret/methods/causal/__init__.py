"""Methods that rank neurons by what changing them does.

Imports `methods.registry` and the rooms up to `tasks`.
"""
