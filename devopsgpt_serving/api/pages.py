"""The pages for people: the playground at /, the API's description at /docs, metrics at /metrics.

Every asset comes from this service: a page works where there is no other network, and its content
security policy allows nothing else.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

from devopsgpt_serving.api.service import Service, service_of
from devopsgpt_serving.metrics import CONTENT_TYPE

router = APIRouter(include_in_schema=False)
ASSETS = "/docs/assets"


_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@router.get("/")
async def playground() -> HTMLResponse:
    """Try the model in a browser."""
    return _page(_playground())


@cache
def _playground() -> str:
    return files("devopsgpt_serving.api").joinpath("playground", "index.html").read_text("utf-8")


@router.get("/docs")
async def docs() -> HTMLResponse:
    """The API, with examples to try."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="DevopsGPT: the API",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    # Swagger UI writes style attributes, which no hash can name
    return _page(bytes(page.body).decode(), "'unsafe-inline'")


def _page(html: str, styles: str | None = None) -> HTMLResponse:
    """A page that may run and show what it was sent with, and nothing that got into it later.

    styles: what is allowed in place of the page's own style elements
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *hashes["script"]]),
        "style-src": " ".join(["'self'", *([styles] if styles else hashes["style"])]),
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    policy = "; ".join(f"{name} {value}" for name, value in rules.items())
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


@router.get("/metrics")
async def metrics(service: Annotated[Service, Depends(service_of)]) -> Response:
    """Prometheus metrics."""
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE)


def install_pages(app: FastAPI) -> None:
    """Add the pages and Swagger UI's files, which the package fastapi-offline carries."""
    app.mount(
        ASSETS,
        StaticFiles(directory=Path(str(files("fastapi_offline"))) / "static"),
        name="docs-assets",
    )
    app.include_router(router)
