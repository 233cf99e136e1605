"""The project's own grammars: minimal pairs of tense, number and negation, and agreement.

Imports `corpora`' own modules but `readers`.
"""
