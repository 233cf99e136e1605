"""Commands that make a model of a model: pruned, adapted, baked, distilled.

Imports `cli`'s options, inputs, output and rendering, and everything below the command line.
"""
