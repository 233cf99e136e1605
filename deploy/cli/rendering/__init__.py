"""What commands print for people, and as JSON for programs: neuron sets with their evidence, models, explanations.

Imports rich and everything below the command line; commands import it when they have something to show.
"""
