"""Removing neurons and heads for good: which can go exactly, choosing them, cutting, and what it saves.

Imports `models` and `surgery.saving`.
"""
