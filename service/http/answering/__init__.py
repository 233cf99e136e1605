"""From a chosen model and a body to the engine's rows, and from their results to an answer, whole or streamed.

Imports the schemas, and of other rooms `access`, `engine` and `observability`; knows no route and no neuron set.
"""
