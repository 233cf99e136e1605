"""Methods that rank neurons by activations on labelled text.

Imports `methods.contracts`, `methods.registry` and the rooms up to `tasks`.
"""
