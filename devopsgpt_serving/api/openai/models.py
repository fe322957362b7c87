"""/v1/models: what is served."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from devopsgpt_serving.api.error_answers import responses
from devopsgpt_serving.api.service import Service, service_of
from devopsgpt_serving.errors import ApiError
from devopsgpt_serving.version import Version

router = APIRouter(prefix="/v1", tags=["OpenAI"])
Here = Annotated[Service, Depends(service_of)]


class ListedModel(BaseModel):
    """A model that answers. version is ours: the registry's; max_model_len is vLLM's: tokens that
    prompt and answer may have together."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "devopsgpt"
    version: str
    max_model_len: int


class ModelCard(ListedModel):
    """A model with its registry's tags, and what its lineage.json tells of its making; empty where
    it has none."""

    tags: dict[str, str]
    lineage: dict[str, Any]


class ModelList(BaseModel):
    """Every model that answers: one, or none yet."""

    object: Literal["list"] = "list"
    data: list[ListedModel]


@router.get("/models", summary="List the models", responses=responses(401))
async def list_models(service: Here) -> ModelList:
    """The model that is served; an empty list until one is loaded."""
    served = service.follower.state.served
    return ModelList(data=[ListedModel(**_facts(served, service))] if served else [])


@router.get("/models/{model}", summary="Describe a model", responses=responses(401, 404))
async def get_model(model: str, service: Here) -> ModelCard:
    """One model, with its version, tags and lineage: chapters and hashes, settings, initial
    weights, code and runs."""
    state = service.follower.state
    served = state.served
    if served is None:
        raise unknown_model(model, service)
    check_model(model, service)
    return ModelCard(**_facts(served, service), tags=served.tags, lineage=state.lineage)


def check_model(model: str, service: Service) -> None:
    """raises: ApiError 404 for another model than the one that is served"""
    if model != service.settings.model_name:
        raise unknown_model(model, service)


def unknown_model(model: str, service: Service) -> ApiError:
    """A 404 that names the model there is."""
    name = service.settings.model_name
    return ApiError(
        404,
        "model_not_found",
        f"no model {model[:100]!r} is served here; ask for {name!r}",
        "model",
    )


def _facts(served: Version, service: Service) -> dict[str, Any]:
    scheduler = service.engine.current
    return {
        "id": served.name,
        "created": served.created,
        "version": served.number,
        "max_model_len": scheduler.loaded.block_size if scheduler else 0,
    }
