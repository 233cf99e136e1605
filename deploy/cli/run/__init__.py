"""Commands that run what there is: serve, translate, publish, and jobs on a cluster.

Imports `cli`'s options, inputs and output, and everything below the command line.
"""
