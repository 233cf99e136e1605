"""One forward pass of each kind, by family.

Imports control and `engine.model`'s cache.
"""
