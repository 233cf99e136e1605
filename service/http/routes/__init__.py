"""The HTTP routes, a module per theme; each has `add(app, services)`."""
