"""The Ray Serve application: ingress, engine replicas, metrics of all, and running it on this machine.

Imports `configuration` and the folders below deploy.
"""
