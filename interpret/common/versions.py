"""What made an artifact, and when: versions of packages, and the time."""

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("neurodial", "torch", "transformers", "numpy")


def time_now() -> str:
    """The time of writing, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Package → version, `unknown` where it runs from its folder."""
    return {name: _version(name) for name in names}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
