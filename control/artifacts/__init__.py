"""What is kept in files: neuron sets and calibrations, and the catalogue that requests name sets by.

Imports the ground and `models`.
"""
