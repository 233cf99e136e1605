"""The desk at `/` and the API reference at `/docs`: static files under a policy that lets in nothing from elsewhere."""

from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from neurodial.service.desk.settings import FOLDER
from neurodial.service.http.middlewares.authentication import DESK_FILES, REFERENCE_FILES, principal
from neurodial.service.http.schemas.desk import DeskCard, KeyCard
from neurodial.service.http.services import Services
from neurodial.service.version import package_version

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY + "; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked again by its ETag, so that a page never mixes the files of two versions
}
# Swagger UI writes HTML and styles of its own making.
_REFERENCE_HEADERS = _HEADERS | {"Content-Security-Policy": _POLICY.replace("style-src", "style-src 'unsafe-inline'")}


def add(app: FastAPI, services: Services) -> None:
    """Adds the page, its files, `/docs` and `/v1/desk`; nothing where the deployment wants no page."""
    if not services.desk.enabled:
        return

    @app.get("/", include_in_schema=False)
    async def desk() -> FileResponse:
        """The page."""
        return FileResponse(FOLDER / "index.html", headers=_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def reference() -> FileResponse:
        """The API reference, in Swagger UI."""
        return FileResponse(FOLDER / "reference.html", headers=_REFERENCE_HEADERS)

    @app.get("/v1/desk", tags=["operations"])
    async def describe_desk(http: HttpRequest) -> DeskCard:
        """What the page has to know of the deployment, and what the request's key allows."""
        who = principal(http)
        return DeskCard(
            version=package_version(),
            languages=dict(services.languages),
            grafana=services.desk.grafana,
            key=KeyCard(name=who.name, admin=who.is_admin, inline=who.inline),
        )

    app.mount(DESK_FILES, _Files(directory=FOLDER))
    app.mount(REFERENCE_FILES, _Files(packages=[("fastapi_offline", "static")]))


class _Files(StaticFiles):
    """The files of a folder, with the page's headers."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, or 304 where the browser has it."""
        response = super().file_response(*args, **options)
        response.headers.update(_HEADERS)
        return response
