"""`neurodial serve` with engines that translate by reversing words, slowly, and that break when a prompt says so.

`python -m tests.deploy.serve.faulty_server CONFIG`; a line `redeploy` on its input deploys the configuration anew.
"""

import sys
import threading
import time
from collections.abc import Sequence as Items
from pathlib import Path

from neurodial.control.artifacts.catalogue import SetCatalogue, SetSource, StoredSets
from neurodial.deploy.configuration.config import Config, load_config
from neurodial.deploy.configuration.settings import ModelSettings
from neurodial.deploy.serve import application, server
from neurodial.deploy.serve.replica import EngineReplica
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.scheduler import Capacity
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import Outcome
from tests.service.engine.fake import FakeRunner


class FaultyRunner(FakeRunner):
    """Takes 20 ms a step; `stick` makes its first step last for ever, `die` ends the thread, but only once."""

    def __init__(self, model_id: str, folder: Path, source: SetSource | None = None) -> None:
        super().__init__(model_id, max_positions=4096, source=source)
        self._folder = folder

    def advance(self, sequences: Items[Sequence]) -> list[Outcome]:
        """The next words, slowly."""
        time.sleep(0.02)
        return super().advance(sequences)

    def join(self, sequences: Items[Sequence]) -> list[Outcome]:
        """The first words, or the end."""
        for sequence in sequences:
            if "stick" in sequence.request.prompt:
                time.sleep(3600)
            if "die" in sequence.request.prompt and not (self._folder / "died").exists():
                (self._folder / "died").touch()
                raise SystemExit  # what no engine survives
        return super().join(sequences)


class FaultyReplica(EngineReplica):
    """A replica that loads no weights; a model called `broken` cannot be loaded."""

    def build(self, settings: ModelSettings, config: Config) -> Engine:
        """An engine around the runner above."""
        if settings.id == "broken":
            raise RuntimeError("size mismatch for some.weight")
        capacity = Capacity(max_rows=settings.max_batch, max_waiting=settings.max_waiting)
        fixed = SetCatalogue.from_files(settings.sets)
        source = None if config.store is None else StoredSets(config.store.open().read, fixed=fixed)
        runner = FaultyRunner(settings.id, Path(settings.path), source)
        return Engine(runner, capacity, stuck_after_s=config.stuck_after_s)


def main(path: str) -> None:
    """Serves until a signal."""
    from ray import serve

    setattr(application, "EngineReplica", FaultyReplica)  # noqa: B010 (the module does not export the name)
    config = load_config(path)

    def redeploy() -> None:
        for line in sys.stdin:
            if line.strip() == "redeploy":
                built = application.build_application(load_config(path))
                serve.run(built, name=server.APPLICATION, route_prefix="/", logging_config=application.QUIET_LOGS)
                print("redeployed", flush=True)

    with server.running(config) as running:
        threading.Thread(target=redeploy, daemon=True).start()
        print(*running.failures, "Ctrl-C stops the server.", flush=True)
        server.wait_until_stopped(running.check)


if __name__ == "__main__":
    main(sys.argv[1])
