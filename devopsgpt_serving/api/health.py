"""Whether the service lives, is ready, and how much it has to do; and a look at the registry.

/health, /ping, /version and /load are vLLM's, for the probes and benchmarks that ask for them.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from devopsgpt_serving.api.error_answers import responses
from devopsgpt_serving.api.service import Service, service_of

router = APIRouter()
Here = Annotated[Service, Depends(service_of)]

ENDED: dict[int | str, dict[str, Any]] = {500: {"description": "The engine's thread ended"}}
DRAINING_CHECK_S = 0.2  # how soon a reload that waits sees that the service stops


class Ready(BaseModel):
    """Whether requests are answered; where keys are set, all that others are told."""

    ready: bool


class Readiness(Ready):
    """Whether requests are answered, by what, and what stands in the way of something newer."""

    model: str
    version: str | None
    registry_up: bool | None
    from_cache: bool
    problem: str | None
    tags: dict[str, str]


@router.get(
    "/api/healthz",
    tags=["health"],
    summary="Whether the process lives",
    responses=responses(500),
)
async def healthz(service: Here, response: Response) -> dict[str, bool]:
    """Whether the process lives. A model is not needed for that; /api/readyz tells about the
    model."""
    if not service.engine.alive:
        response.status_code = 500
    return {"api_healthy": service.engine.alive}


@router.get(
    "/api/readyz",
    tags=["health"],
    summary="Whether requests are answered",
    responses={503: {"model": Readiness | Ready, "description": "Not ready"}},
)
async def readyz(request: Request, service: Here, response: Response) -> Readiness | Ready:
    """Whether requests are answered, and by which version. Where keys are set and none is sent,
    only whether."""
    readiness = await _readiness(service)
    if not readiness.ready:
        response.status_code = 503
    return readiness if request.state.known else Ready(ready=readiness.ready)


async def _readiness(service: Service) -> Readiness:
    state, problem = service.follower.state, await service.present_problem()
    served = state.served
    return Readiness(
        ready=problem is None,
        model=service.settings.model_name,
        version=served.number if served else None,
        registry_up=state.registry_up,
        from_cache=state.from_cache,
        problem=problem or state.problem,
        tags=served.tags if served else {},
    )


@router.get(
    "/health",
    tags=["health"],
    summary="Whether the process lives",
    response_class=Response,
    responses=ENDED,
)
@router.get(
    "/ping",
    tags=["health"],
    summary="The same for SageMaker",
    response_class=Response,
    responses=ENDED,
)
async def health(service: Here) -> Response:
    """An empty answer: 200 while the engine lives, else 500."""
    return Response(status_code=200 if service.engine.alive else 500)


class PackageVersion(BaseModel):
    """The version of this service's code."""

    version: str


@router.get("/version", tags=["health"], summary="The service's own version")
async def version(request: Request) -> PackageVersion:
    """The package's version; the model's is in `X-Model-Version` and /api/readyz."""
    return PackageVersion(version=request.app.version)


class Load(BaseModel):
    """Sequences that are computed or wait."""

    server_load: int


@router.get("/load", tags=["health"], summary="How much there is to do", responses=responses(401))
async def load(service: Here) -> Load:
    """Sequences that are computed or wait, as vLLM counts them."""
    return Load(server_load=service.engine.running + service.engine.waiting)


@router.post(
    "/admin/reload", tags=["admin"], summary="Look at the registry now", responses=responses(401)
)
async def reload(service: Here) -> Readiness:
    """Look at the registry now instead of at the next turn, also at a version that was refused
    before."""
    looked = asyncio.wrap_future(service.follower.ask())
    # a look may take longer than a service that stops can wait
    while not (looked.done() or service.draining):
        await asyncio.wait([looked], timeout=DRAINING_CHECK_S)
    return await _readiness(service)
