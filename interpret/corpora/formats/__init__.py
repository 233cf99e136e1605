"""Formats of corpora: CoNLL-U, facts, plain text whose concept is a pattern or a contrast.

Imports `corpora`' own modules but `readers`.
"""
