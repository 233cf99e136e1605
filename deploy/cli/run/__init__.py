"""Commands that serve, translate, publish and run jobs.

Imports `cli`'s options and rendering, and everything below.
"""
