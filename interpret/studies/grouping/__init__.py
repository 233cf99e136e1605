"""Neurons that belong together: the job and its pictures.

Imports the rooms above `studies`.
"""
