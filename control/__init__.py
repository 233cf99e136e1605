"""What changes a model: addresses, operations, plans, hooks and the neuron set."""
