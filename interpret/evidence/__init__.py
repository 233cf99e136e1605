"""Evidence that a neuron set carries its concept: held-out probes, significance, stability, and causal effects."""
