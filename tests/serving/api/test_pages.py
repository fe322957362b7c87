"""The OpenAPI document, metrics and logs."""

import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from devopsgpt_serving.logs import JsonLines
from serving.conftest import serving, until


def test_the_openapi_document_tells_every_error_in_one_form(service):
    document = service.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/api/healthz", "/api/readyz", "/api/generate", "/admin/reload"),
        *("/v1/models", "/v1/models/{model}", "/v1/completions", "/v1/chat/completions"),
        *("/health", "/ping", "/version", "/load", "/tokenize", "/detokenize"),
    }
    assert "HTTPValidationError" not in json.dumps(document["paths"]["/v1/completions"])
    answers = document["paths"]["/v1/completions"]["post"]["responses"]
    assert {"400", "401", "404", "413", "422", "429", "500", "503", "504"} < set(answers)


def test_metrics_count_what_happened(service, common_shelf):
    metric = service.metric
    before = metric("generation_tokens_total")
    service.generate("hello", max_token_len=7)
    assert metric("generation_tokens_total") == before + 7
    assert metric("num_requests_running") == 0
    assert metric("registry_up") == 1
    assert metric("model_info", model=service.name, version="1") == 1
    version = common_shelf.client.get_model_version(common_shelf.name, "1")
    assert metric("model_registered_timestamp_seconds") == version.creation_timestamp // 1000
    assert metric("time_to_first_token_seconds_count") > 0
    assert metric("inter_token_latency_seconds_count") > 0
    service.generate("")
    assert metric("rejections_total", code="empty_prompt") >= 1


# what vLLM's own Grafana dashboard asks for, under our prefix
VLLMS = """e2e_request_latency_seconds_bucket prompt_tokens_total generation_tokens_total
    inter_token_latency_seconds_bucket num_requests_running num_requests_waiting
    time_to_first_token_seconds_bucket kv_cache_usage_perc request_prompt_tokens_bucket
    request_generation_tokens_bucket request_success_total request_queue_time_seconds_sum
    request_prefill_time_seconds_sum request_decode_time_seconds_sum
    request_inference_time_seconds_sum request_max_num_generation_tokens_sum
    request_params_max_tokens_sum request_time_per_output_token_seconds_bucket
    prefix_cache_queries_total prefix_cache_hits_total"""


def test_metrics_are_those_of_vllms_dashboard(service):
    service.generate("hello", max_token_len=7)
    text = service.http.get("/metrics").text
    samples = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    ]
    assert {f"devopsgpt:{name}" for name in VLLMS.split()} <= {one.name for one in samples}
    assert {one.labels["model_name"] for one in samples} == {service.name}
    assert [one.name for one in samples if one.name.endswith("_created")] == []


def test_each_stage_of_a_request_is_measured(service):
    names = [f"request_{name}_time_seconds" for name in ("queue", "prefill", "decode", "inference")]

    def sums():
        return [service.metric(f"{name}_sum") for name in (*names, "e2e_request_latency_seconds")]

    before = sums()
    service.generate("hello", max_token_len=40)
    queue, prefill, decode, inference, whole = (
        now - then for now, then in zip(sums(), before, strict=True)
    )
    assert inference == pytest.approx(prefill + decode)
    assert 0 < queue + inference <= whole


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
