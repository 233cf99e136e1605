"""The demo translation model: its data, training and evaluation."""
