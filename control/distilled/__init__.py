"""Distilled classifiers: the artifact, and the predictor that scikit-learn's users expect.

Imports the ground, `models` and `text`.
"""
