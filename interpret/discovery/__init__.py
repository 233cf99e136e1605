"""The discovery job: corpus, model, concept and method in, a neuron set with its evidence out.

Imports control and every room but `studies`.
"""
