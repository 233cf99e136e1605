"""Commands that make a model of a model.

Imports `cli`'s options and rendering, and everything below.
"""
