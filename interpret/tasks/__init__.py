"""Tasks that a corpus sets a model, and exact effects of changing neurons on them.

Imports control, `common`, `corpora` and `activations`.
"""
