"""A training as a pod: PipesK8sClient against a local server that speaks the needed part of the
API."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import dagster as dg
import pytest

from devopsgpt_model.training.job import TrainingJob
from devopsgpt_model.training.report import read_metrics
from devopsgpt_pipeline.training.kubernetes_launcher import LABEL, KubernetesLauncher
from devopsgpt_pipeline.training.launcher import TrainingFailed
from pipeline.training.kubernetes_api import Cluster
from pipeline.training.running import CONFIG, ENDLESS, losses

# of the Kubernetes client's connections
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

WORKER = """
import sys
from pathlib import Path
import dagster as dg
from devopsgpt_model.training.job import TrainingJob
from devopsgpt_pipeline.training.kubernetes_launcher import KubernetesLauncher

@dg.asset
def trained(context: dg.AssetExecutionContext, launcher: KubernetesLauncher):
    launcher.train(context, TrainingJob.read(Path(sys.argv[1])), lambda message: None)
    return dg.MaterializeResult()

with dg.DagsterInstance.ephemeral() as instance:
    home, quick = sys.argv[2], dict(poll_interval_s=0.1, patience_s=3.0)
    place = {"home_path": home, "kubeconfig": home + "/kubeconfig"}
    launcher = KubernetesLauncher(image="x:1", **place, **quick)
    dg.materialize([trained], resources={"launcher": launcher}, instance=instance)
"""


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def launcher_for(job, **settings):
    home, kubeconfig = str(job.out.parent), str(job.out.parent / "kubeconfig")
    return KubernetesLauncher(
        image="x:1", home_path=home, kubeconfig=kubeconfig, poll_interval_s=0.1, **settings
    )


def train(job, cluster, **settings):
    """Through Dagster, in this process. returns: messages, each with whether the pod still ran when
    it came"""
    heard = []

    @dg.asset
    def trained(context: dg.AssetExecutionContext, launcher: KubernetesLauncher):
        launcher.train(
            context,
            job,
            lambda message: heard.append((message, cluster.made[-1].process.poll() is None)),
        )
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(
            [trained], resources={"launcher": launcher_for(job, **settings)}, instance=instance
        )
    return heard


def start_worker(job, step=3):
    job.write(job.out / "job.json")
    command = [sys.executable, "-c", WORKER, str(job.out / "job.json"), str(job.out.parent)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not any(line["step"] >= step for line in read_metrics(job.out / "metrics.jsonl")):
        assert worker.poll() is None, worker.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "the trainer did not get there"
        time.sleep(0.05)
    return worker


def test_a_pod_trains_reports_while_it_runs_and_is_deleted(cluster, job):
    heard = train(job, cluster)
    assert [step for step, _ in losses([message for message, _ in heard])] == [
        0,
        3,
        6,
        6,
        9,
        12,
        12,
    ]
    assert heard[0][1], "the first report came after the pod had ended"
    assert json.loads((job.out / "result.json").read_text())["steps_trained"] == 12
    (pod,) = cluster.made
    assert pod.gone
    assert LABEL in pod.manifest["metadata"]["labels"]


def test_several_gpus_are_asked_for_and_shared_by_torchrun(job):
    spec = launcher_for(job, processes=4).pod_spec(job.out / "train.json", "auto")
    (container,) = spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert "--nproc-per-node=4" in container["command"]
    assert spec["volumes"][0] == {
        "name": "home",
        "persistentVolumeClaim": {"claimName": "devopsgpt-home"},
    }
    assert container["volumeMounts"][0] == {"name": "home", "mountPath": str(job.out.parent)}
    assert spec["terminationGracePeriodSeconds"] == 120
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment == {
        "HOME": "/tmp",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120",
        "OMP_NUM_THREADS": "2",
    }
    alone = launcher_for(job).pod_spec(job.out / "train.json", "cpu")["containers"][0]
    assert "nvidia.com/gpu" not in alone["resources"]["limits"]
    assert "torch.distributed.run" not in alone["command"]
    assert alone["env"] == [{"name": "HOME", "value": "/tmp"}]


@pytest.mark.slow
def test_two_ranks_in_a_pod_report_once(cluster, job):
    heard = train(job, cluster, processes=2)
    assert [step for step, _ in losses([message for message, _ in heard])] == [
        0,
        3,
        6,
        6,
        9,
        12,
        12,
    ]
    assert "--nproc-per-node=2" in cluster.made[0].manifest["spec"]["containers"][0]["command"]


def test_terminating_deletes_the_pod_after_it_has_saved(cluster, job):
    worker = start_worker(dataclasses.replace(job, config=ENDLESS))
    worker.send_signal(signal.SIGINT)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode != 0
    (pod,) = cluster.made
    assert pod.gone, output[-2000:]
    assert (job.out / "state.safetensors").exists()
    assert "start it again to go on from there" in output


@pytest.mark.slow
def test_a_pod_whose_launcher_was_killed_saves_and_ends_and_the_next_one_goes_on(
    cluster,
    job,
):
    worker = start_worker(dataclasses.replace(job, config=ENDLESS))
    worker.kill()
    worker.communicate()
    (pod,) = cluster.made
    # nobody deleted it: it noticed that nobody touches the heartbeat
    assert pod.process.wait(30) != 0
    assert (job.out / "state.safetensors").exists()
    stopped = read_metrics(job.out / "metrics.jsonl")[-1]["step"]
    went_on = TrainingJob.read(job.out / "train.json")
    worker = start_worker(dataclasses.replace(went_on, heartbeat_s=0.0), step=stopped + 1)
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=60)
    assert pod.gone  # what was left behind was cleared away first
    assert any("resuming at step" in line.decode() for line in cluster.made[1].lines)


def test_a_failed_pod_is_told_in_the_trainers_own_words(cluster, job):
    wrong = dataclasses.replace(job, config=dataclasses.replace(CONFIG, block_size=10_000_000))
    with pytest.raises(
        TrainingFailed, match=r"pod failed: training failed: .*more than block_size tokens"
    ):
        train(wrong, cluster)
    assert cluster.made[0].gone
