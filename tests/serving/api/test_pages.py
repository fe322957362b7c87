"""The OpenAPI document, metrics and logs."""

import json
import logging
import re

from devopsgpt_serving.logs import JsonLines
from serving.conftest import serving, until


def test_the_openapi_document_tells_every_error_in_one_form(service):
    document = service.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/api/healthz", "/api/readyz", "/api/generate", "/admin/reload"),
        *("/v1/models", "/v1/models/{model}", "/v1/completions"),
    }
    assert "HTTPValidationError" not in json.dumps(document["paths"]["/v1/completions"])
    answers = document["paths"]["/v1/completions"]["post"]["responses"]
    assert {"400", "401", "404", "413", "422", "429", "500", "503", "504"} < set(answers)


def test_metrics_count_what_happened(service, common_shelf):
    def metric(name):
        return float(
            re.search(
                rf"^{re.escape(name)} (\S+)$", service.http.get("/metrics").text, re.MULTILINE
            )[1]
        )

    before = metric("devopsgpt:generation_tokens_total")
    service.generate("hello", max_token_len=7)
    assert metric("devopsgpt:generation_tokens_total") == before + 7
    assert metric("devopsgpt:num_requests_running") == 0
    assert metric("devopsgpt:registry_up") == 1
    assert metric(f'devopsgpt:model_info{{model="{service.name}",version="1"}}') == 1
    version = common_shelf.client.get_model_version(common_shelf.name, "1")
    assert (
        metric("devopsgpt:model_registered_timestamp_seconds") == version.creation_timestamp // 1000
    )
    assert metric("devopsgpt:time_to_first_token_seconds_count") > 0
    assert metric("devopsgpt:inter_token_latency_seconds_count") > 0
    rejected = 'devopsgpt:rejections_total{code="empty_prompt"}'
    service.generate("")
    assert metric(rejected) >= 1


def mine(caplog, request_id):
    return [record for record in caplog.records if getattr(record, "request_id", "") == request_id]


def test_logs_tell_the_request_and_not_the_prompt(service, caplog):
    with caplog.at_level(logging.INFO, "devopsgpt_serving"):
        service.http.post(
            "/api/generate", json={"prompt": "a secret"}, headers={"X-Request-ID": "me-1"}
        )
        until(lambda: mine(caplog, "me-1"))
    (record,) = mine(caplog, "me-1")
    line = json.loads(JsonLines().format(record))
    assert (line["path"], line["status"], line["version"]) == ("/api/generate", 200, "1")
    assert "secret" not in caplog.text + json.dumps(line)


def test_prompts_are_logged_when_the_operator_asks(common_shelf, tmp_path, caplog):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, log_prompts=True)
    with serving(tmp_path, **where) as service, caplog.at_level(logging.INFO, "devopsgpt_serving"):
        service.wait_for("1")
        service.generate("asked by me")
        service.complete("asked by you")
    told = [record.prompt for record in caplog.records if hasattr(record, "prompt")]
    assert told == ["asked by me", ["asked by you"]]
