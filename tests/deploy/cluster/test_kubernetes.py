"""The manifests fit the API's schemas, and each other."""

import copy
import re
from pathlib import Path

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from conftest import REPOSITORY
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import (
    DagsterK8sJobConfig,
    UserDefinedDagsterK8sConfig,
    construct_dagster_k8s_job,
)
from kubernetes.client import ApiClient

from deploy.cluster.helm_chart import unknown_values
from deploy.compose import SECRETS
from devopsgpt_pipeline.cli import main
from devopsgpt_serving.metrics import Metrics
from devopsgpt_serving.settings import PREFIX, Settings

FOLDER = REPOSITORY / "deploy/kubernetes"
API_VERSION = "1.34"
LARGE_MODEL_BYTES = 774_030_080 * 4  # gpt2-large in float32
MANIFESTS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.endswith("values.yaml"))
OBJECTS = [
    (path.name, thing) for path in MANIFESTS for thing in yaml.safe_load_all(path.read_text())
]
NAMES = [f"{file}-{thing['kind']}" for file, thing in OBJECTS]


def code_server(values):
    """The code server's pod, and what the chart's template helpers/_helpers.tpl passes on of it to
    runs."""
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    container = {
        key: deployment[key] for key in ("env", "volumeMounts", "securityContext", "resources")
    }
    container |= {"name": "dagster", "image": "x:1"}
    pod = {
        "containers": [container],
        "volumes": deployment["volumes"],
        "securityContext": deployment["podSecurityContext"],
    }
    passed = {key: deployment[key] for key in ("env", "volumes", "resources")}
    return pod, passed | {"volume_mounts": deployment["volumeMounts"]}


def run_pod(values):
    """The pod of a run, put together by the launcher's own means."""
    settings = values["runLauncher"]["config"]["k8sRunLauncher"]
    snake = {
        "container_config": settings["runK8sConfig"]["containerConfig"],
        "pod_spec_config": settings["runK8sConfig"]["podSpecConfig"],
        "job_spec_config": settings["runK8sConfig"]["jobSpecConfig"],
    }
    context = K8sContainerContext(
        image_pull_policy=settings["imagePullPolicy"],
        security_context=settings["securityContext"],
        run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(snake),
    ).merge(K8sContainerContext.create_from_config({"k8s": code_server(values)[1]}))
    place = DagsterK8sJobConfig(job_image="x:1", dagster_home="/opt/dagster")
    job = construct_dagster_k8s_job(place, ["dagster"], "run", context.run_k8s_config)
    return ApiClient().sanitize_for_serialization(job.spec.template.spec)


def training_pod(processes=0):
    from devopsgpt_pipeline.training.kubernetes_launcher import KubernetesLauncher

    launcher = KubernetesLauncher(
        image="docker.io/devopsgpt-pipeline:0.1.0", home_path="/data", processes=processes
    )
    return launcher.pod_spec(Path("/data/training/x/train.json"), "auto")


def pods():
    for file, thing in OBJECTS:
        if thing["kind"] in ("Deployment", "Job", "CronJob"):
            spec = thing["spec"].get("jobTemplate", thing)["spec"]
            yield f"{file}-{thing['kind']}", spec["template"]["spec"]


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


@pytest.mark.parametrize("name", ["serving", "serving-vllm"])
def test_the_service_is_probed_reached_and_kept(name):
    things = {thing["kind"]: thing for file, thing in OBJECTS if file == f"{name}.yaml"}
    container = things["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == "/api/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/api/healthz"
    labels = things["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        things["Deployment"]["spec"]["selector"]["matchLabels"],
        things["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        things["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        things["Service"]["spec"]["selector"],
    ]
    assert selectors == [{"app.kubernetes.io/name": name}] * 4
    assert labels.items() >= selectors[0].items()
    ports = [port["name"] for port in container["ports"]]
    assert things["Service"]["spec"]["ports"][0]["targetPort"] in ports
    assert things["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] in ports


def test_the_services_replicas_are_scaled():
    (scaler,) = [thing for _, thing in OBJECTS if thing["kind"] == "HorizontalPodAutoscaler"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == "serving"


def test_every_manifest_is_in_the_instructions():
    text = (REPOSITORY / "docs/operations.md").read_text()
    assert [
        path.name for path in FOLDER.iterdir() if f"deploy/kubernetes/{path.name}" not in text
    ] == []


def test_the_autoscaler_follows_a_metric_that_the_service_exports():
    (scaler,) = [thing for _, thing in OBJECTS if thing["kind"] == "HorizontalPodAutoscaler"]
    wanted = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    adapter = yaml.safe_load(
        (REPOSITORY / "deploy/observability/prometheus-adapter.yaml").read_text()
    )
    series = adapter["rules"]["custom"][0]["seriesQuery"].split("{")[0]
    assert series.replace(":", "_") == wanted
    assert series.partition(":")[2] in (REPOSITORY / "devopsgpt_serving/metrics.py").read_text()
    assert Metrics("devopsgpt").exposition()


def test_mlflow_has_room_for_every_replica_that_fetches_a_promoted_version():
    (scaler,) = [thing for _, thing in OBJECTS if thing["kind"] == "HorizontalPodAutoscaler"]
    (pod,) = [pod for name, pod in pods() if name == "mlflow.yaml-Deployment"]
    (temporary,) = [volume["emptyDir"] for volume in pod["volumes"]]
    assert "medium" not in temporary  # a disk, not memory
    fetching = scaler["spec"]["maxReplicas"] + 1
    assert int(temporary["sizeLimit"].removesuffix("Gi")) * 2**30 > fetching * LARGE_MODEL_BYTES


def test_grace_is_longer_than_draining():
    (pod,) = [pod for name, pod in pods() if name == "serving.yaml-Deployment"]
    set_here = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    drain = float(set_here[f"{PREFIX}SHUTDOWN_DELAY_S"]) + Settings.model_fields["drain_s"].default
    assert pod["terminationGracePeriodSeconds"] > drain


def test_the_services_settings_exist():
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for _, pod in pods():
        named = {
            each["name"]
            for each in pod["containers"][0].get("env", [])
            if each["name"].startswith(PREFIX)
        }
        assert named <= known


def test_the_charts_values_are_ones_that_it_takes():
    values = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
    assert unknown_values(values) == []
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    values["dagsterDaemon"]["runMonitoring"]["startTimeout"] = 1
    values["dagster-user-deployments"]["deployments"][0]["volumeMount"] = []
    assert unknown_values(values) == [
        "dagsterDaemon.runMonitoring.startTimeout",
        "dagster-user-deployments.deployments.volumeMount",
    ]


def test_dagster_takes_the_settings_that_the_chart_makes_of_the_values(tmp_path):
    values = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
    monitoring = values["dagsterDaemon"]["runMonitoring"]
    assert not values["dagsterDaemon"]["runCoordinator"]["enabled"]
    settings = {  # as the chart's templates/configmap-instance.yaml writes them
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
        },
        "retention": {
            name: {"purge_after_days": values["retention"][name]["purgeAfterDays"]}
            for name in ("schedule", "sensor")
        },
        "telemetry": values["telemetry"],
    } | values["additionalInstanceConfig"]
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        pools = instance.event_log_storage.get_pool_config()
        assert (pools.default_pool_limit, pools.pool_granularity.value) == (1, "op")
        assert instance.run_monitoring_enabled
        assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 10
    queue = {"module": "dagster.core.run_coordinator", "class": "QueuedRunCoordinator"}
    twice = settings | {"run_coordinator": queue | {"config": {"max_concurrent_runs": 10}}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(twice))
    with pytest.raises(dg.DagsterInvalidConfigError, match="incompatible"):
        dg.DagsterInstance.from_config(str(tmp_path))


@pytest.mark.parametrize("spoil", [False, True])
def test_the_code_servers_pod_and_its_runs_fit_the_schema(spoil):
    values = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
    for spec in (code_server(values)[0], run_pod(values)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "code"}, "spec": spec}
        if spoil:
            spec["volumes"] = [{"nmae": "x"}]
            with pytest.raises(kubernetes_validate.ValidationError, match=r"nmae|name"):
                kubernetes_validate.validate(pod, API_VERSION, strict=True)
        else:
            kubernetes_validate.validate(pod, API_VERSION, strict=True)


def test_a_run_has_room_for_a_large_model():
    """The code server's resources are merged over the run launcher's."""
    resources = run_pod(yaml.safe_load((FOLDER / "dagster-values.yaml").read_text()))["containers"][
        0
    ]["resources"]
    assert resources["limits"] == {"cpu": "4", "memory": "8Gi"}
    assert resources["requests"]["ephemeral-storage"] == "8Gi"


def test_every_pod_with_the_home_may_write_it_and_is_confined():
    values = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
    claim = {"claimName": "devopsgpt-home"}
    found = [*(pod for _, pod in pods()), code_server(values)[0], run_pod(values), training_pod()]
    homes = [
        pod
        for pod in found
        if claim in [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
    ]
    # the code server's, a run's, a training's, a training's by hand, a backup's
    assert len(homes) == 5
    for pod in homes:
        assert pod["securityContext"]["fsGroup"] == 10001
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_values_choose_the_launcher_that_makes_pods(monkeypatch):
    from devopsgpt_pipeline.defs.resources import build_launcher
    from devopsgpt_pipeline.settings import read_settings
    from devopsgpt_pipeline.training.kubernetes_launcher import KubernetesLauncher

    values = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    for each in deployment["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    (mount,) = deployment["volumeMounts"]
    launcher = build_launcher(read_settings())
    assert launcher.home_path == mount["mountPath"]
    assert isinstance(launcher, KubernetesLauncher)
    assert launcher.image == "{repository}:{tag}".format(**deployment["image"])
    assert launcher.home_claim == deployment["volumes"][0]["persistentVolumeClaim"]["claimName"]


@pytest.mark.parametrize("processes", [0, 8])
def test_a_trainings_pod_fits_the_schema_and_is_confined_as_the_job_by_hand_is(processes):
    spec = training_pod(processes)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(pod, API_VERSION, strict=True)
    test_every_pod_is_confined("", spec)
    (by_hand,) = [each for name, each in pods() if name == "training-job.yaml-Job"]
    for key in ("restartPolicy", "automountServiceAccountToken", "securityContext", "tolerations"):
        assert spec[key] == by_hand[key]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == str(processes or 1)
    spec["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagee"):
        kubernetes_validate.validate(pod, API_VERSION, strict=True)


def test_the_launcher_may_do_what_a_pod_needs_and_no_more():
    role, binding = [thing for file, thing in OBJECTS if file == "training-role.yaml"]
    granted = {
        (name, verb)
        for rule in role["rules"]
        for name in rule["resources"]
        for verb in rule["verbs"]
    }
    wanted = {("pods", verb) for verb in ("create", "get", "list", "watch", "delete")}
    assert granted == wanted | {("pods/log", "get"), ("pods/status", "get"), ("events", "list")}
    assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {""}
    # of one namespace, not of the cluster
    assert role["kind"] == binding["roleRef"]["kind"] == "Role"
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    values = yaml.safe_load((FOLDER / "dagster-values.yaml").read_text())
    assert [each["name"] for each in binding["subjects"]] == [
        values["global"]["serviceAccountName"]
    ]


def test_the_nightly_backup_holds_the_home_and_both_databases():
    (pod,) = [pod for name, pod in pods() if name == "backup.yaml-CronJob"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "devopsgpt_pipeline.cli"]
    verb, *arguments = container["args"]
    asked = main.commands[verb].make_context(verb, arguments).params
    assert asked["keep"] > 1
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounts["backups"] == str(asked["target"])
    assert {"name": "DEVOPSGPT_HOME", "value": mounts["home"]} in container["env"]
    postgres = {"dagster": "DAGSTER_POSTGRES_URL", "mlflow": "MLFLOW_BACKEND_STORE_URI"}
    urls = {each["name"]: each.get("value") for each in container["env"]}
    keys = [
        each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"] if "valueFrom" in each
    ]
    assert set(keys) < set(SECRETS)
    for name, variable in postgres.items():
        assert f"//{name}:$({name.upper()}_DB_PASSWORD)@postgres:5432/{name}" in urls[variable]
    # set before the URLs that hold them
    assert keys == [f"{name.upper()}_DB_PASSWORD" for name in postgres]


def test_no_manifest_holds_a_secret():
    for _, pod in pods():
        secret = [
            each
            for each in pod["containers"][0]["env"]
            if re.search("PASSWORD|KEY(?!S_FILE)", each["name"])
        ]
        assert [each["name"] for each in secret if "value" in each] == []
    assert not [thing for _, thing in OBJECTS if thing["kind"] == "Secret"]
