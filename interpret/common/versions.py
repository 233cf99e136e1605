"""The versions of the packages that made an artifact."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("neurodial", "torch", "transformers", "numpy")


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Package → version, `unknown` where it runs from its folder."""
    return {name: _version(name) for name in names}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
