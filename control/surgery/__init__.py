"""Changing weights for good: baking controls in, cutting layers off, and saving what came of it.

Imports everything of control but `distilled`; `pruning` is the room for removing neurons and heads.
"""
