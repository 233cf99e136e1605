"""`make clients`: gives each client an environment of its own, runs it against the demo, and writes the table."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import httpx
import typer

from neurodial.deploy.configuration.config import demo_config
from neurodial.deploy.serve import local
from tests.benchmarks.bench_http import free_port
from tests.clients.clients import CLIENTS
from tests.documentation.filling import RESULTS, ROOT, keep

_SECONDS = 600


def main(
    only: list[str] = typer.Option([], help="these clients alone; the table is not written then"),
    environments: Path = typer.Option(ROOT / ".clients", help="holds their environments"),
) -> None:
    """Runs the clients; fails where one does."""
    with local.running(demo_config(port=free_port())) as server:
        assert httpx.get(f"{server.address}/ready").status_code == 200
        rows = [run(name, server.address, environments / name) for name in only or CLIENTS]
    for row in rows:
        typer.echo(f"{row['client']} {row['version']}: {'; '.join(row['did'])} {row['problem']}")
    if not only:
        keep({"clients": rows}, RESULTS / "clients.json")
    raise typer.Exit(int(any(row["problem"] for row in rows)))


def run(name: str, address: str, folder: Path) -> dict[str, Any]:
    """One client: its version, what it has done, and what went wrong."""
    _, packages = CLIENTS[name]
    python = folder / "bin" / "python"
    if packages and not python.exists():
        typer.echo(f"installing {name} …", err=True)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    chosen = python if packages else Path(sys.executable)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = Path(__file__).with_name("clients.py")
    done = subprocess.run(
        [chosen, script, name, address], capture_output=True, text=True, timeout=_SECONDS, env=environment
    )
    did = [line.removeprefix("did: ") for line in done.stdout.splitlines() if line.startswith("did: ")]
    problem = done.stderr.strip().splitlines()[-1][:200] if done.returncode else ""
    return {"client": name, "version": _version(chosen, packages), "did": did, "problem": problem}


def _version(python: Path, packages: tuple[str, ...]) -> str:
    if not packages:
        return subprocess.run([shutil.which("curl") or "curl", "-V"], capture_output=True, text=True).stdout.split()[1]
    asked = f"from importlib.metadata import version; print(version({packages[0].partition('[')[0]!r}))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    typer.run(main)
