"""Pruning decided and measured: a sweep of keep ratios with quality, cost and speed, and its report."""
