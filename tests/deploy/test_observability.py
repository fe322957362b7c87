"""Alerts and dashboard speak of what the service exports, and the runbook of every alert."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from conftest import REPOSITORY
from prometheus_client.parser import text_string_to_metric_families

from devopsgpt_serving.app import build_service
from devopsgpt_serving.settings import Settings

FOLDER = REPOSITORY / "deploy/observability"
RUNBOOK = (REPOSITORY / "docs/runbook.md").read_text()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Every series that the service exports, by name."""
    service = build_service(Settings(cache_dir=tmp_path_factory.mktemp("cache")))
    families = list(text_string_to_metric_families(service.metrics.exposition().decode()))
    names = {sample.name for family in families for sample in family.samples}
    labelled = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in families
    }
    return names | labelled


def alerts():
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def named(expression):
    return set(re.findall(r"devopsgpt:\w+", expression))


def test_every_metric_of_an_alert_is_exported(exported):
    for rule in alerts():
        assert named(rule["expr"]) <= exported, rule["alert"]
    assert not named("devopsgpt:no_such_thing > 1") <= exported


def test_every_metric_of_the_dashboard_is_exported(exported):
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    assert len(panels) >= 10
    for panel in panels:
        for target in panel["targets"]:
            assert named(target["expr"])
            assert named(target["expr"]) <= exported, panel["title"]


def test_every_alert_has_its_page_in_the_runbook():
    headings = {
        heading.strip().lower() for heading in re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE)
    }
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["alert"].lower() in headings
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_runbook_tells_of_ten_things_what_is_seen_and_what_to_do():
    pages = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]
    assert len(pages) >= 10
    for page in pages:
        assert "**Seen:**" in page, page
        assert "**Do:**" in page, page


def test_what_the_runbook_types_exists():
    from devopsgpt_pipeline.cli import main

    text = RUNBOOK + (REPOSITORY / "docs/operations.md").read_text()
    assert set(re.findall(r"`devopsgpt ([a-z]+)", text)) <= set(main.commands)


@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "alerts.yaml"],
        # the key's file is on Prometheus' machine
        ["check", "config", "--syntax-only", "prometheus.yaml"],
        ["test", "rules", "alerts.test.yaml"],
    ],
)
def test_promtool_agrees(command):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not here (Debian's package prometheus)")
    answer = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def discovered(file, targets, place):
    """Labels of each target that a file's job keeps, by promtool. targets: address, and the labels
    that were found

    What finds them is taken out: it is not here to be asked, and Debian's promtool knows no
    Kubernetes.
    """
    if not shutil.which("promtool"):
        pytest.skip("promtool is not here (Debian's package prometheus)")
    job = yaml.safe_load((FOLDER / file).read_text())["scrape_configs"][0]
    job = {name: value for name, value in job.items() if not name.endswith("_sd_configs")}
    job["static_configs"] = [
        {"targets": [address], "labels": labels} for address, labels in targets
    ]
    (place / file).write_text(yaml.safe_dump({"scrape_configs": [job]}))
    command = [
        "promtool",
        "check",
        "service-discovery",
        "--timeout=2s",
        str(place / file),
        job["job_name"],
    ]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return [found["labels"] for found in json.loads(answer.stdout) if found["labels"]]


def test_in_a_cluster_the_pods_that_serve_are_scraped_under_the_name_that_alerts_ask_for(tmp_path):
    targets, meta = [], "__meta_kubernetes_"
    for path in sorted((REPOSITORY / "deploy/kubernetes").glob("[!d]*.yaml")):
        for thing in yaml.safe_load_all(path.read_text()):
            pod = thing.get("spec", {}).get("template", {})
            name = pod.get("metadata", {}).get("labels", {}).get("app.kubernetes.io/name", "")
            containers = pod.get("spec", {}).get("containers", [])
            # one that declares no port (vLLM beside the service) is found, too, as an address
            # without one
            for port in (
                port
                for each in containers
                for port in each.get("ports", [{"name": "", "containerPort": 80}])
            ):
                for phase in ("Running", "Failed"):
                    labels = {
                        "namespace": "devopsgpt",
                        "pod_name": f"{name}-{phase}",
                        "pod_phase": phase,
                    }
                    labels |= {
                        "pod_label_app_kubernetes_io_name": name,
                        "pod_container_port_name": port["name"],
                    }
                    address = f"10.0.0.{len(targets)}:{port['containerPort']}"
                    targets.append((address, {meta + key: value for key, value in labels.items()}))
    assert len(targets) >= 6  # MLflow, and both ways to serve
    job = yaml.safe_load((FOLDER / "prometheus-kubernetes.yaml").read_text())["scrape_configs"][0]
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": ["devopsgpt"]}}]
    assert "kubectl create namespace devopsgpt\n" in (REPOSITORY / "docs/operations.md").read_text()
    found = discovered("prometheus-kubernetes.yaml", targets, tmp_path)
    assert sorted(each["pod"] for each in found) == ["serving-Running", "serving-vllm-Running"]
    for each in found:
        assert (each["job"], each["namespace"]) == ("devopsgpt-serving", "devopsgpt")
        assert each["instance"] == each["pod"]
        assert each["__address__"].endswith(":8000")


def test_beside_compose_both_ways_to_serve_are_scraped_by_their_names(tmp_path):
    job = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"][0]
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    assert set(job["dns_sd_configs"][0]["names"]) < set(services)
    targets = [("serving:8000", {}), ("10.0.0.1:8000", {"__meta_dns_name": "serving-vllm"})]
    found = discovered("prometheus.yaml", targets, tmp_path)
    assert sorted(each["instance"] for each in found) == ["serving-vllm:8000", "serving:8000"]
    assert {each["job"] for each in found} == {"devopsgpt-serving"}


def test_every_alert_has_a_test_that_fires_it_and_one_that_does_not():
    cases = [
        case
        for test in yaml.safe_load((FOLDER / "alerts.test.yaml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fired == silent == {rule["alert"] for rule in alerts()}
