"""Neuron control inside vLLM: a plugin of its own, and an engine behind `EngineClient`. The only importer of vLLM.

Modules that import vLLM do so where they need it, so that this room can be imported, and most of it tested, without.
"""
