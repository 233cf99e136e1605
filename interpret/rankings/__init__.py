"""Rankings as files, those of other tools among them, and salience for pruning.

Imports control and the rooms up to `methods`.
"""
