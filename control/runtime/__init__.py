"""Programs applied to running batches, eagerly or in compiled models, with a report of what was done.

Imports the ground, `models`, `artifacts` and `plans`.
"""
