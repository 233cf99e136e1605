"""The HTTP application: OpenAI's routes and ours over one engine per model. No Ray, no torch.

Imports every other room of the service.
"""
