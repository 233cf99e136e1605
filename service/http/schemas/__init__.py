"""Bodies of requests and answers: OpenAI's shapes, and ours where it has none."""
