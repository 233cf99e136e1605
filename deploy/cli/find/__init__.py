"""Commands that find neurons and explain them: they write neuron sets, activations and reports, and change no model.

Imports `cli`'s options, inputs, output and rendering, and everything below the command line.
"""
