"""Bodies and answers as pydantic models, a module per theme; `base` holds what several share.

Imports `control` alone, but for the names of an engine's states and of the catalogue's actions.
"""
