"""Domain adaptation that forgets little: two strategies that hold neurons fixed, beside full fine-tuning and LoRA."""
