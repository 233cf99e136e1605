"""Real servers for tests: started as a user starts them, watched from outside, stopped with a signal."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_S, STOP_S = 600, 120
_INSTALLED = Path(sys.executable).with_name("neurodial")
START = "import sys; from neurodial.deploy.cli.main import app; sys.argv[0] = 'neurodial'; app()"
NEURODIAL = [str(_INSTALLED)] if _INSTALLED.exists() else [sys.executable, "-c", START]


@dataclass
class Server:
    """A running server.

    Attributes:
        process: what was started.
        port: where it listens.
        marker: in the environment of every process that it has started.
        output: what it printed.
        key: that tests ask with, where it wants one.
    """

    process: subprocess.Popen[str]
    port: int
    marker: str
    output: Path
    key: str = ""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def relatives(self) -> dict[int, str]:
        """Every process that inherited this server's environment: id → command."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and _has(folder / "environ", self.marker):
                try:
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")[:80]
                except OSError:  # it has just ended
                    continue
        return found

    def ray_address(self) -> str:
        """Of its Ray cluster, for those that join it."""
        for number in self.relatives():
            if found := re.search(rb"--gcs-address=([\w.:]+)", (Path("/proc") / str(number) / "cmdline").read_bytes()):
                return found[1].decode()
        raise AssertionError("no process names the cluster's address")

    def replicas(self, deployment: str) -> list[int]:
        """The processes of a deployment's replicas."""
        pattern = re.compile(rf"ServeReplica:\w+:{re.escape(deployment)}\b")
        return [number for number, command in self.relatives().items() if pattern.search(command)]

    def memory(self) -> dict[str, int]:
        """Resident bytes of Serve's proxy and of the ingress."""
        found = {}
        for number, command in self.relatives().items():
            for name in ("ProxyActor", ":ingress"):
                if name in command:
                    pages = (Path("/proc") / str(number) / "statm").read_text().split()[1]
                    found[name] = int(pages) * os.sysconf("SC_PAGE_SIZE")
        return found

    @property
    def config(self) -> Path:
        """Its configuration file, where it has one."""
        return self.output.with_name("serve.yaml")

    def redeploy(self, config: str) -> None:
        """Deploys another configuration; tests.deploy.serve.faulty_server listens for that."""
        times = self.output.read_text().count("redeployed")
        self.config.write_text(config)
        assert self.process.stdin is not None
        self.process.stdin.write("redeploy\n")
        self.process.stdin.flush()
        self.wait_for("redeployed", times + 1)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Waits until it has printed something so often."""
        deadline = time.monotonic() + START_S
        while self.output.read_text().count(text) < times:
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.1)

    def interrupt(self) -> None:
        """Ctrl-C: signals the whole group, as a terminal does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(STOP_S)

    def terminate(self) -> None:
        """SIGTERM to the process alone, as containers and service managers do."""
        self.process.terminate()
        self.process.wait(STOP_S)


@contextmanager
def serving(
    command: Sequence[str], folder: Path, config: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Starts a server with a configuration and waits until it serves.

    Args:
        command: arguments of Python, before the configuration file.
        folder: for its files.
        config: the configuration without the port.
        environment: variables beside those that there are.
    """
    port, path = free_port(), folder / "serve.yaml"
    path.write_text(f"{config}\nport: {port}\n")
    with started([sys.executable, *command, str(path)], folder, port, environment) as server:
        yield server


@contextmanager
def started(
    command: Sequence[str], folder: Path, port: int, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Starts a server and waits until it serves.

    Args:
        command: a program with its arguments.
        folder: for what it prints.
        port: where it will listen.
        environment: variables beside those that there are.
    """
    marker, output = uuid.uuid4().hex, folder / "output"
    with output.open("w") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "NEURODIAL_TEST": marker, **(environment or {})},
        )
    server = Server(process, port, marker, output)
    try:
        server.wait_for("Ctrl-C stops")
        yield server
    finally:
        server.interrupt()


def free_port() -> int:
    """A port that nobody uses, below those that connections get by themselves: a server binds it seconds later."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _has(path: Path, marker: str) -> bool:
    try:
        return marker.encode() in path.read_bytes()
    except OSError:  # the process has ended, or is another user's
        return False
