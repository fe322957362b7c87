"""API keys, and pages of other origins."""

import asyncio
import hmac

import httpx
import pytest
from starlette.responses import PlainTextResponse

from devopsgpt_serving.api.api_keys import ApiKeyMiddleware
from devopsgpt_serving.settings import GUARDED
from serving.conftest import serving


def test_keys_are_asked_for(common_shelf, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("second\n\n")
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, api_keys="first,third", api_keys_file=keys) as service:
        service.wait_for("1")
        for path in ("/api/healthz", "/api/readyz", "/", "/docs", "/openapi.json"):
            assert service.http.get(path).status_code == 200, path
        for key in (None, "wrong", "firs"):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            for method, path in (
                ("GET", "/v1/models"),
                ("POST", "/api/generate"),
                ("POST", "/admin/reload"),
            ):
                answer = service.http.request(method, path, headers=headers)
                assert answer.status_code == 401
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert "x-request-id" in answer.headers
        for key in ("first", "second", "third"):
            headers = {"Authorization": f"Bearer {key}"}
            assert service.http.get("/v1/models", headers=headers).status_code == 200


def status_with(authorization, accepted):
    """What an application behind keys answers to a header."""

    async def ask():
        transport = httpx.ASGITransport(
            app=ApiKeyMiddleware(PlainTextResponse("passed"), accepted, GUARDED)
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return (
                await client.get("/v1/models", headers={"Authorization": authorization})
            ).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "authorization", ["Bearer abc", "bearer abc", "BEARER  abc ", "Bearer schlüssel"]
)
def test_a_key_passes_behind_its_scheme_in_any_case(authorization):
    assert status_with(authorization.encode(), ["abc", "schlüssel"]) == 200


@pytest.mark.parametrize(
    "authorization", ["", "abc", "Bearer", "Bearerabc", "Basic abc", "Bearer Bearer abc"]
)
def test_a_key_without_its_scheme_is_refused(authorization):
    assert status_with(authorization.encode(), ["abc"]) == 401


@pytest.mark.parametrize(
    ("given", "status"), [("first", 200), ("second", 200), ("third", 200), ("wrong", 401)]
)
def test_every_key_is_compared_whichever_fits(monkeypatch, given, status):
    compared = []

    def compare(one, other):
        compared.append({one, other})
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert status_with(f"Bearer {given}".encode(), ["first", "second", "third"]) == status
    assert compared == [{given.encode(), key} for key in (b"first", b"second", b"third")]


def test_other_origins_are_admitted_only_by_name(service, common_shelf, tmp_path):
    origin = {"Origin": "https://example.org"}
    assert (
        "access-control-allow-origin"
        not in service.http.get("/api/healthz", headers=origin).headers
    )
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, cors_origins="https://example.org") as other:
        headers = other.http.get("/api/healthz", headers=origin).headers
        assert headers["access-control-allow-origin"] == "https://example.org"


def test_a_browser_may_ask_without_a_key_whether_it_may_ask(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, api_keys="k")
    origin = {"Origin": "https://example.org"}
    with serving(tmp_path, **where, cors_origins="https://example.org") as service:
        asks = origin | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        answer = service.http.options("/v1/completions", headers=asks)
        assert answer.status_code == 200
        assert "x-request-id" in answer.headers
        refused = service.http.post("/v1/completions", headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://example.org"
        assert "x-request-id" in refused.headers
