"""The manifests fit the API's schemas, and each other."""

import copy
import re

import kubernetes_validate
import pytest
import yaml
from conftest import REPOSITORY
from dagster_k8s.job import UserDefinedDagsterK8sConfig

from devopsgpt_serving.metrics import Metrics
from devopsgpt_serving.settings import PREFIX, Settings

FOLDER = REPOSITORY / "deploy/kubernetes"
API_VERSION = "1.34"
MANIFESTS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.endswith("values.yaml"))
OBJECTS = [(path.name, thing) for path in MANIFESTS for thing in yaml.safe_load_all(path.read_text())]
NAMES = [f"{file}-{thing['kind']}" for file, thing in OBJECTS]
# the chart's own list of top-level values, version 1.13
CHART_VALUES = {
    "additionalInstanceConfig",
    "busybox",
    "computeLogManager",
    "dagster-user-deployments",
    "dagsterDaemon",
    "dagsterWebserver",
    "flower",
    "generateCeleryConfigSecret",
    "generatePostgresqlPasswordSecret",
    "global",
    "imagePullSecrets",
    "ingress",
    "migrate",
    "postgresql",
    "pythonLogs",
    "rabbitmq",
    "redis",
    "retention",
    "runLauncher",
    "scheduler",
    "serviceAccount",
    "telemetry",
}


def pods():
    for file, thing in OBJECTS:
        if thing["kind"] in ("Deployment", "Job"):
            yield f"{file}-{thing['kind']}", thing["spec"]["template"]["spec"]


@pytest.mark.parametrize(("file", "thing"), OBJECTS, ids=NAMES)
def test_an_object_fits_its_schema(file, thing):
    kubernetes_validate.validate(thing, API_VERSION, strict=True)
    spoilt = copy.deepcopy(thing)
    spoilt.get("spec", spoilt)["replicaz"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="replicaz"):
        kubernetes_validate.validate(spoilt, API_VERSION, strict=True)


@pytest.mark.parametrize(("name", "pod"), list(pods()))
def test_every_pod_is_confined(name, pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert ":" in container["image"].rpartition("/")[2]
        assert not container["image"].endswith(":latest")


def test_the_service_is_probed_scaled_and_kept():
    things = {thing["kind"]: thing for file, thing in OBJECTS if file == "serving.yaml"}
    container = things["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == "/api/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/api/healthz"
    labels = things["Deployment"]["spec"]["selector"]["matchLabels"]
    assert things["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert things["Service"]["spec"]["selector"] == labels
    assert things["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "serving"


def test_the_autoscaler_follows_a_metric_that_the_service_exports():
    (scaler,) = [thing for _, thing in OBJECTS if thing["kind"] == "HorizontalPodAutoscaler"]
    wanted = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    adapter = yaml.safe_load((REPOSITORY / "deploy/observability/prometheus-adapter.yaml").read_text())
    series = adapter["rules"]["custom"][0]["seriesQuery"].split("{")[0]
    assert series.replace(":", "_") == wanted
    assert series.partition(":")[2] in (REPOSITORY / "devopsgpt_serving/metrics.py").read_text()
    assert Metrics().exposition()


def test_grace_is_longer_than_draining():
    (pod,) = [pod for name, pod in pods() if name == "serving.yaml-Deployment"]
    set_here = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    drain = float(set_here[f"{PREFIX}SHUTDOWN_DELAY_S"]) + Settings.model_fields["drain_s"].default
    assert pod["terminationGracePeriodSeconds"] > drain


def test_the_services_settings_exist():
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for _, pod in pods():
        named = {each["name"] for each in pod["containers"][0].get("env", []) if each["name"].startswith(PREFIX)}
        assert named <= known


def test_the_charts_values_are_ones_that_it_takes():
    values = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
    assert set(values) <= CHART_VALUES
    launcher = values["runLauncher"]
    assert launcher["type"] == "K8sRunLauncher"
    snake = {
        "container_config": launcher["config"]["k8sRunLauncher"]["runK8sConfig"]["containerConfig"],
        "pod_spec_config": launcher["config"]["k8sRunLauncher"]["runK8sConfig"]["podSpecConfig"],
        "job_spec_config": launcher["config"]["k8sRunLauncher"]["runK8sConfig"]["jobSpecConfig"],
    }
    UserDefinedDagsterK8sConfig.from_dict(snake)  # the launcher's own reading of it


@pytest.mark.parametrize("spoil", [False, True])
def test_the_code_servers_pod_fits_the_schema(spoil):
    values = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    container = {key: deployment[key] for key in ("env", "volumeMounts", "securityContext", "resources")}
    container |= {"name": "dagster", "image": "x:1"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "code"},
        "spec": {"containers": [container], "volumes": [{"nmae": "x"}] if spoil else deployment["volumes"]},
    }
    if spoil:
        with pytest.raises(kubernetes_validate.ValidationError, match=r"nmae|name"):
            kubernetes_validate.validate(pod, API_VERSION, strict=True)
    else:
        kubernetes_validate.validate(pod, API_VERSION, strict=True)


def test_the_launcher_may_do_what_a_pod_needs_and_no_more():
    role, binding = [thing for file, thing in OBJECTS if file == "launcher-rbac.yaml"]
    granted = {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    wanted = {("pods", verb) for verb in ("create", "get", "list", "watch", "delete")} | {("pods/log", "get")}
    assert granted == wanted
    assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {""}
    assert role["kind"] == binding["roleRef"]["kind"] == "Role"  # of one namespace, not of the cluster
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    values = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
    assert [each["name"] for each in binding["subjects"]] == [values["global"]["serviceAccountName"]]


def test_no_manifest_holds_a_secret():
    for _, pod in pods():
        secret = [each for each in pod["containers"][0]["env"] if re.search("PASSWORD|KEY", each["name"])]
        assert [each["name"] for each in secret if "value" in each] == []
    assert not [thing for _, thing in OBJECTS if thing["kind"] == "Secret"]
