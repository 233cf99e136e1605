"""The HTTP application: OpenAI's routes and ours over one engine per model. No Ray, no torch.

Imports every other room of the service. Inside, from the top: app, routes,
selection, answering, services, middlewares, rendering, schemas.
"""
