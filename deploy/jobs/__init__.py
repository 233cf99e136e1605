"""Discovery jobs on a Ray cluster, and giving a running server what they found.

Imports `serve` and the folders below deploy.
"""
