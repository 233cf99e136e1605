"""Physical pruning: smaller matrices that compute what the model computes with the removed neurons held fixed.

`choose_kept` turns scores into kept neurons, `prune_model` cuts, `save_pruned` and `load_pruned` keep and bring back,
`support` says what can be cut exactly, `cost` what it is worth. All are public names of `neurodial.control`.
"""
