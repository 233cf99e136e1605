"""Distillation for feature-based transfer: the lowest sufficient layer, few neurons, a linear classifier of them."""
