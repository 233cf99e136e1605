"""Running a server on this machine: Ray comes up quietly, the application starts, and nothing stays behind."""

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import ConfigError, NeurodialError, Unavailable
from neurodial.deploy.configuration.config import Config, deployment_name
from neurodial.deploy.configuration.settings import StoreSettings
from neurodial.deploy.serve import cluster, environment
from neurodial.service.engine.types import EngineInfo

logger = logging.getLogger(__name__)

APPLICATION = "neurodial"
_SENTENCE = "A tall boy is standing at the door."
_ROUTES = {
    "encoder-decoder": ("/v1/translations", "text"),
    "decoder-only": ("/v1/completions", "prompt"),
    "encoder-only": ("/v1/embeddings", "input"),
}
_OBJECT_STORE_BYTES = 128 * 1024 * 1024  # requests and answers are small; Ray would take 30 % of the memory


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        address: such as `http://127.0.0.1:8000`.
        infos: the models that could be loaded with their neuron sets, in the order of the configuration.
        failures: why the others could not: model id → reason.
        check: raises what the server cannot go on with.
    """

    address: str
    infos: tuple[EngineInfo, ...]
    failures: Mapping[str, NeurodialError] = field(default_factory=dict)
    check: Callable[[], None] = lambda: None

    def curl_commands(self) -> tuple[str, str]:
        """Two commands to paste: one request without a control, one with."""
        info = self.infos[0]
        route, field = _ROUTES[info.model.family]
        body: dict[str, Any] = {"model": info.model.id, field: _SENTENCE}
        stack = "decoder" if info.model.family == "decoder-only" else "encoder"
        control: dict[str, Any] = {"neurons": f"{stack}.0.resid[0-15]", "op": "amplify", "value": 2.0}
        if info.sets:
            labels = info.sets[0].labels
            control = {"set": info.sets[0].name, "to": "past" if "past" in labels else labels[-1]}
        return self._curl(route, body), self._curl(route, body | {"controls": [control]})

    def _curl(self, route: str, body: dict[str, Any]) -> str:
        return f"curl -s {self.address}{route} -d '{json.dumps(body)}'"


def check_port(host: str, port: int) -> None:
    """Makes sure that a server can listen.

    Raises:
        ConfigError: if the port is in use or not allowed, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            said = "is in use" if error.errno == 98 else f"cannot be used ({error.strerror or error})"
            raise ConfigError(f"port {port} on {host} {said}", hint="stop the other server or choose --port") from None


def check_files(config: Config) -> None:
    """Reads every neuron set and the keys, so that what is wrong is named before anything has started.

    Raises:
        NeuronSetError: if a set is truncated or foreign.
        ConfigError: if the keys or the store cannot be used.
    """
    for model in config.models:
        for path in model.sets.values():
            NeuronSet.load(path)
    config.auth.keys()
    if config.store is not None:
        config.store.open()


@contextmanager
def running(config: Config, *, verbose: bool = False) -> Iterator[Running]:
    """Starts Ray and the application, waits until it answers, and takes everything down again.

    Yields:
        The server's address and what it serves.

    Raises:
        NeurodialError: if the port is taken, or a model or neuron set cannot be loaded.
    """
    check_port(config.host, config.port)
    cluster.interrupt_on_sigterm()
    cluster.prepare()
    for name in environment.SERVING:  # Serve reads them when it is imported, and this process has no event loop
        os.environ.pop(name, None)
    import ray
    from ray import serve

    os.environ.update(environment.SERVING)
    is_up = False
    folder = TemporaryDirectory(prefix="neurodial-sets-", ignore_cleanup_errors=True)
    try:
        _start_ray(config, verbose)
        cluster.interrupt_on_sigterm()  # Ray has installed a handler of its own that prints a stack trace
        infos, failures = _deploy(with_store(config, folder.name))
        is_up = True
        yield Running(f"http://{config.host}:{config.port}", infos, failures)
    finally:
        if is_up:
            _drain(config.graceful_shutdown_s)
        with _uninterrupted(), nullcontext() if verbose else _muted():
            if ray.is_initialized():
                shut_down: Any = serve.shutdown  # Ray leaves it untyped
                shut_down()
            ray.shutdown()
            folder.cleanup()


def with_store(config: Config, folder: str) -> Config:
    """Lets a server on this machine take uploads until it stops, where no store is configured."""
    if config.store is not None or config.ray_address != "local":
        return config
    logger.info("no store is configured: uploaded neuron sets are kept until the server stops")
    return config.model_copy(update={"store": StoreSettings(uri=folder)})


def _drain(seconds: float) -> None:
    """Lets running requests end while new ones are refused; another signal cuts it short."""
    from ray import serve

    from neurodial.deploy.serve.draining import close_ingresses

    hurry = threading.Event()
    with on_signals(lambda *_: hurry.set()):
        close_ingresses(serve.get_app_handle(APPLICATION), seconds, hurry)


def _start_ray(config: Config, verbose: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR
    options: dict[str, Any] = {"logging_level": level, "log_to_driver": verbose}
    if config.ray_address == "local":
        engines = sum(model.num_cpus * model.max_replicas for model in config.models)
        options |= {
            "num_cpus": (os.cpu_count() or 1) + round(engines + 0.5),  # reservations, not speed: jobs find room too
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    logging.getLogger("ray.serve").setLevel(level)
    try:
        cluster.initialize(config.ray_address, **options)
    except Exception as error:
        raise Unavailable(
            f"Ray did not start: {cluster.said(error)}", hint="--verbose shows Ray's own messages"
        ) from error


def _deploy(config: Config) -> tuple[tuple[EngineInfo, ...], dict[str, NeurodialError]]:
    from ray import serve
    from ray.serve.config import HTTPOptions

    from neurodial.deploy.serve.application import QUIET_LOGS, build_application

    serve.start(http_options=HTTPOptions(host=config.host, port=config.port), logging_config=QUIET_LOGS)
    application = build_application(with_threads(config))
    try:
        serve.run(application, name=APPLICATION, route_prefix="/", logging_config=QUIET_LOGS)
    except RuntimeError as error:
        raise Unavailable(f"the application did not start: {error}", hint="--verbose shows the log") from error
    answers = {
        model.id: _info(serve.get_deployment_handle(deployment_name(model.id), APPLICATION)) for model in config.models
    }
    infos = tuple(answer for answer in answers.values() if isinstance(answer, EngineInfo))
    failures = {id_: answer for id_, answer in answers.items() if isinstance(answer, NeurodialError)}
    if not infos:
        raise next(iter(failures.values()))
    return infos, failures


def _info(handle: Any) -> EngineInfo | NeurodialError:
    from neurodial.deploy.serve.handles import CALL_ERRORS, translated

    try:
        info: EngineInfo = handle.info.remote().result(timeout_s=60)
    except CALL_ERRORS as error:
        return translated(error)
    return info


def with_threads(config: Config) -> Config:
    """Shares the machine's cores among the engines that run on CPUs and do not say how many threads they want."""
    engines = sum(model.max_replicas for model in config.models)
    share = max(1, (os.cpu_count() or 1) // engines)
    models = tuple(m if m.threads is not None else m.model_copy(update={"threads": share}) for m in config.models)
    return config.model_copy(update={"models": models})


@contextmanager
def _muted() -> Iterator[None]:
    """Drops what Ray's listeners print while it goes down: that its own actors were killed is no news."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _uninterrupted() -> AbstractContextManager[None]:
    """Lets nothing interrupt the shutdown: a second Ctrl-C would leave processes behind."""
    return on_signals(signal.SIG_IGN)


@contextmanager
def on_signals(handler: Any) -> Iterator[None]:
    """Handles Ctrl-C and SIGTERM in another way for a while."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def wait_until_stopped(check: Callable[[], None]) -> None:
    """Blocks until Ctrl-C or SIGTERM.

    Raises:
        NeurodialError: what `check` does, which is called again and again.
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.wait(0.5):
        check()
