"""The HTTP application: OpenAI's routes and ours over one engine per model. No Ray, no torch."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from neurodial.service.http import openapi
from neurodial.service.http.bodies import StrictRoute
from neurodial.service.http.middlewares.admission import Admission, HeaderGuard
from neurodial.service.http.middlewares.authentication import OPEN_FOLDERS, Authenticated
from neurodial.service.http.middlewares.body_limit import BodyLimit
from neurodial.service.http.middlewares.leniency import Leniency
from neurodial.service.http.rendering import install_handlers
from neurodial.service.http.routes import (
    catalogue,
    classifying,
    controls,
    desk,
    generation,
    libretranslate,
    operations,
    reading,
    translation,
)
from neurodial.service.http.services import Services
from neurodial.service.observability.observing import Observed
from neurodial.service.version import package_version

_DESCRIPTION = "Inference-time control of a model's neurons, per request."


def create_app(services: Services) -> FastAPI:
    """Builds the application."""
    app = FastAPI(
        title="Neurodial",
        version=package_version(),
        description=_DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own pages load their files from other hosts
        redoc_url=None,
        strict_content_type=False,
        generate_unique_id_function=lambda route: route.name,
    )
    limits = services.limits
    app.router.route_class = StrictRoute
    larger = {controls.UPLOAD_PATH: limits.max_set_bytes}
    seconds = limits.request_timeout_s
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes, max_seconds=seconds, max_bytes_of=larger)
    app.add_middleware(Authenticated, keys=services.keys, anyone=services.anyone)  # before a body is read
    app.add_middleware(Admission, gate=services.gate)
    app.add_middleware(HeaderGuard)
    if services.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=services.cors,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Api-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Observed, metrics=services.http_metrics, echo_request_id=services.echo_request_id)
    app.add_middleware(Leniency, folders=OPEN_FOLDERS)
    install_handlers(app)
    for routes in (
        generation,
        translation,
        libretranslate,
        reading,
        classifying,
        catalogue,
        controls,
        operations,
        desk,
    ):
        routes.add(app, services)
    openapi.install(app)
    return app
