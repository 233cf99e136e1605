"""One pass over a corpus: the plan, what it gathers, and the parts of a neuron set made of that.

Imports control and the rooms up to `activations`.
"""
