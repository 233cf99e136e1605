"""Offline: corpora, activations, discovery methods and evaluation."""
