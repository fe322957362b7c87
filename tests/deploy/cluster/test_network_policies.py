"""Who reaches whom in the cluster: every pair of pods, at every port."""

import pytest
import yaml
from conftest import REPOSITORY
from dagster_k8s.job import DagsterK8sJobConfig, construct_dagster_k8s_job
from dagster_k8s.pipes import build_pod_body

from deploy.cluster.network_policies import allowed
from devopsgpt_pipeline.training.kubernetes_launcher import LABEL

FOLDER = REPOSITORY / "deploy/kubernetes"
OBJECTS = [
    thing
    for path in FOLDER.glob("*.yaml")
    for thing in yaml.safe_load_all(path.read_text())
    if thing and "kind" in thing
]
POLICIES = [thing for thing in OBJECTS if thing["kind"] == "NetworkPolicy"]
OUTSIDE, METADATA = "192.0.2.7", "169.254.169.254"
PORTS = (53, 80, 443, 4000, 5000, 5432, 6443, 8000, "http")


def template_labels():
    """The labels of the pods that our manifests make, by the name of each."""
    for thing in OBJECTS:
        if thing["kind"] in ("Deployment", "Job", "CronJob"):
            spec = thing["spec"].get("jobTemplate", thing)["spec"]
            labels = spec["template"]["metadata"]["labels"]
            yield labels["app.kubernetes.io/name"], labels


def run_labels():
    place = DagsterK8sJobConfig(job_image="x:1", dagster_home="/opt/dagster")
    job = construct_dagster_k8s_job(place, ["dagster"], "run", component="run_worker")
    return job.spec.template.metadata.labels


def training_labels():
    meta = {"labels": {LABEL: "0123"}}
    body = build_pod_body("x", "x:1", None, {}, meta, {"containers": [{"name": "x"}]})
    return body.metadata.labels


PODS = dict(template_labels()) | {
    # as the templates of Dagster's chart label them (helm/dagster/templates, November 2026)
    "webserver": {"app.kubernetes.io/name": "dagster", "component": "dagster-webserver"},
    "daemon": {"app.kubernetes.io/name": "dagster", "component": "dagster-daemon"},
    "code": {
        "app.kubernetes.io/name": "dagster-user-deployments",
        "component": "user-deployments",
        "deployment": "devopsgpt",
    },
    "run": run_labels(),
    "training pod": training_labels(),
    "postgres": {"app.kubernetes.io/name": "postgres"},
    "a stranger": {"app": "stranger"},
}
NEEDED = {
    ("mlflow", "postgres", 5432),
    ("backup", "postgres", 5432),
    *((name, "postgres", 5432) for name in ("webserver", "daemon", "code", "run")),
    *((name, "code", 4000) for name in ("webserver", "daemon")),
    *((name, "mlflow", 5000) for name in ("serving", "serving-vllm", "code", "run")),
    *((name, "mlflow", 5000) for name in ("training", "training pod")),
}
OUTWARD = {
    ("mlflow", 443),
    *((name, port) for name in ("webserver", "daemon") for port in (443, 6443)),
    *(("run", port) for port in (80, 443, 6443)),
}


def test_every_pod_of_the_deployment_is_among_those_looked_at():
    assert {"mlflow", "serving", "serving-vllm", "training", "backup"} <= set(PODS)
    assert LABEL in PODS["training pod"]
    assert PODS["run"]["app.kubernetes.io/component"] == "run_worker"


def test_pods_reach_what_they_need_and_nothing_else():
    found = {
        (source, target, port)
        for source in PODS
        for target in PODS
        for port in PORTS
        if allowed(POLICIES, PODS[source], PODS[target], port)
    }
    assert found == NEEDED


def test_only_those_that_need_it_reach_the_world_outside():
    found = {
        (source, port)
        for source in PODS
        for port in PORTS
        if allowed(POLICIES, PODS[source], OUTSIDE, port)
    }
    assert found == OUTWARD
    assert not [
        name
        for name in PODS
        if any(allowed(POLICIES, PODS[name], METADATA, port) for port in PORTS)
    ]


@pytest.mark.parametrize("name", [policy["metadata"]["name"] for policy in POLICIES])
def test_each_policy_is_needed(name):
    """Without it something that is wanted does not pass, or something else does."""
    rest = [policy for policy in POLICIES if policy["metadata"]["name"] != name]
    pairs = {
        (source, target, port)
        for source in PODS
        for target in PODS
        for port in PORTS
        if allowed(rest, PODS[source], PODS[target], port)
    }
    outward = {
        (source, port)
        for source in PODS
        for port in PORTS
        if allowed(rest, PODS[source], OUTSIDE, port)
    }
    of_namespaces = ("default-deny", "dns", "dagster-webserver", "serving", "serving-vllm")
    assert name in of_namespaces or (pairs, outward) != (NEEDED, OUTWARD)


def test_pods_of_other_namespaces_reach_none_that_they_are_not_let_into():
    (deny,) = [one for one in POLICIES if one["metadata"]["name"] == "default-deny"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    let_in = {
        one["metadata"]["name"]
        for one in POLICIES
        for rule in one["spec"].get("ingress", [])
        if not rule.get("from") or any("namespaceSelector" in peer for peer in rule["from"])
    }
    assert let_in == {"mlflow", "dagster-webserver", "serving", "serving-vllm"}


def test_anybody_in_the_cluster_may_ask_the_service():
    for name in ("serving", "serving-vllm"):
        (policy,) = [one for one in POLICIES if one["metadata"]["name"] == name]
        assert policy["spec"]["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
