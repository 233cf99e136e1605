"""The evaluation benchmark: discovery methods side by side on one concept, another tool's rankings among them."""
