"""From controls to programs: everything that can be checked and computed before a model runs.

Imports the ground, `models` and `artifacts`.
"""
