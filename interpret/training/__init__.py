"""One trainer for recovery, adaptation and whatever else changes weights: transformers' own, with our objective."""
