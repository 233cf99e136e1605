"""Methods from neurons to concepts: what a neuron answers to.

Imports `methods`' own modules, `ranking`, `reports` and the rooms up to `tasks`.
"""
