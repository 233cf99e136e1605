"""Where Serve's configurations find the application: `import_path: neurodial.deploy.application:build`."""

from neurodial.deploy.serve.application import build

__all__ = ["build"]
