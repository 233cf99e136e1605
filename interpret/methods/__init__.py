"""The discovery methods, one self-registering class a file, and their contracts.

Imports control and the rooms up to `tasks`; `ranking`, `causal`, `grouping` and `explanation` hold the methods.
"""
