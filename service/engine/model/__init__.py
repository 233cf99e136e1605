"""The model behind an engine: rows join and leave between steps, each under its own controls.

Imports control and `engine`; `forward` runs the passes.
"""
