"""Which version this is."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version; `0+unknown` in a tree that is not installed."""
    try:
        return version("neurodial")
    except PackageNotFoundError:
        return "0+unknown"
