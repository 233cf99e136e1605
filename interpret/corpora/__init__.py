"""Corpora: the one type, and its readers, chosen by a spec.

Imports control and `common`; `formats` reads files, `grammars` writes sentences of its own.
"""
