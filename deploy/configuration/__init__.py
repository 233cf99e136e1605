"""What `neurodial serve` reads: one YAML file, every setting documented, every mistake named.

Imports the folders below deploy.
"""
