"""Studies of a model, each a folder with its job and its report.

Imports control and all other rooms; a study imports another only downwards (see the layers in pyproject.toml).
"""
