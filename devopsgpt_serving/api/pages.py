"""The pages for people: the playground at /, the API's description at /docs, metrics at /metrics.

Every asset comes from this service: a page works where there is no other network.
"""

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


@router.get("/")
async def playground() -> HTMLResponse:
    """Try the model in a browser."""
    return HTMLResponse(
        files("devopsgpt_serving.api").joinpath("playground", "index.html").read_text("utf-8")
    )


@router.get("/docs")
async def docs() -> HTMLResponse:
    """The API, with examples to try."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="DevopsGPT: the API",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


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
