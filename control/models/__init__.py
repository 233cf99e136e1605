"""Models as controls see them: where each architecture's neurons are, reading and hooking them, loading checkpoints.

Imports the ground (addresses, controls, errors) alone; torch and transformers.
"""
