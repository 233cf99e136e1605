"""Words of a text, and which tokens of a model spell them.

Imports nothing of ours but the ground.
"""
