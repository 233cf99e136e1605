"""What the routes are given: engines, limits, and whatever else a deployment has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from neurodial.control.errors import BadInput
from neurodial.service.access.auth import ANYONE, Keys, Principal
from neurodial.service.access.limits import Limits
from neurodial.service.desk.settings import DeskSettings
from neurodial.service.engine.client import EngineClient
from neurodial.service.errors import ModelNotFound
from neurodial.service.http.middlewares.admission import Gate
from neurodial.service.observability import request_log
from neurodial.service.observability.exposition import LocalMetrics, MetricsSource
from neurodial.service.observability.metrics import HttpMetrics
from neurodial.service.sets.catalogue import Catalogue


@dataclass(frozen=True)
class Services:
    """What the application is built from.

    Attributes:
        engines: one engine per model id, in the order in which `/v1/models` lists them.
        limits: at admission.
        languages: model id → (source, target) of the models that translate, as ISO 639 codes; `/translate` chooses
            the model by them.
        gate: counts the requests inside, and refuses too many.
        http_metrics: what this process measures.
        metrics: what `/metrics` shows; what this process measures where absent.
        echo_request_id: answer with `X-Request-ID`; not needed behind a proxy that does.
        catalogue: of the neuron sets; where absent, those that the engines were started with.
        keys: who may ask; None lets everybody in, as `anyone`.
        anyone: who everybody is where there are no keys.
        desk: the page at `/`.
        cors: other origins whose pages may send requests, such as `https://example.org`; `*` is all.
    """

    engines: Mapping[str, EngineClient]
    limits: Limits = field(default_factory=Limits)
    languages: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)
    http_metrics: HttpMetrics = field(default_factory=HttpMetrics)
    metrics: MetricsSource | None = None
    echo_request_id: bool = True
    catalogue: Catalogue | None = None
    keys: Keys | None = None
    anyone: Principal = ANYONE
    desk: DeskSettings = field(default_factory=DeskSettings)
    cors: tuple[str, ...] = ()

    @cached_property
    def sets(self) -> Catalogue:
        """The catalogue."""
        return self.catalogue or Catalogue(self.engines)

    def engine(self, model: str) -> EngineClient:
        """The engine that serves a model.

        Raises:
            ModelNotFound: naming the models there are.
        """
        if model not in self.engines:
            raise ModelNotFound.among(model, self.engines)
        request_log.note_model(model)
        return self.engines[model]

    def named(self, model: str | None, hint: str = "known:") -> str:
        """The model of a request that need not name one.

        Raises:
            BadInput: if there are several; its hint names them behind the given one.
        """
        if model is None and len(self.engines) > 1:
            raise BadInput("model is missing", hint=f"{hint} {', '.join(self.engines)}", param="model")
        return next(iter(self.engines)) if model is None else model

    def metrics_source(self) -> MetricsSource:
        """What `/metrics` shows."""
        return self.metrics or LocalMetrics(self.http_metrics.snapshot)
