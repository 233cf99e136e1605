"""The desk: the page at `/`, as the static files that a browser gets; there is no build step.

`settings` says where they are and what a deployment may change. Imports nothing of ours.
"""
