"""Commands that find and explain neurons.

Imports `cli`'s options and rendering, and everything below.
"""
