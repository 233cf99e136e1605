"""Activations of a corpus: extracted, summarised in streams, stored, and what follows from them alone.

Imports control, `common` and `corpora`; `neurox` exchanges files with NeuroX.
"""
