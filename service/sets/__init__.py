"""Neuron sets while serving: what names stand for, the store that replicas share, and who may use them.

Imports control, `access` and `engine`.
"""
