"""Activations in NeuroX's files.

Imports `activations`' own modules.
"""
