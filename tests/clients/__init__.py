"""Other people's clients, unchanged, against a server with the demo: `make clients`."""
