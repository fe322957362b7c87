"""Trainings as pods of a cluster, through Dagster's own PipesK8sClient: messages and logs come back
over the pod's log.

The home is a volume that pods share. Knows nothing of what is trained; needs the extra `cluster`,
imported when used.
"""

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from devopsgpt_model.threads import repeat_every
from devopsgpt_model.training.job import HEARTBEAT_FILE, TrainingJob
from devopsgpt_pipeline.training.launcher import (
    Context,
    Launcher,
    OnMetrics,
    TrainingFailed,
    command_of,
    hand_over,
    words_of_failure,
)

if TYPE_CHECKING:
    from dagster_k8s.client import DagsterKubernetesClient

LABEL = "devopsgpt/training"  # the same for every pod that works in one training's folder
HEARTBEAT_S = 5.0


class KubernetesLauncher(Launcher):
    """Runs each training in a pod of its own: one container, `processes` GPUs (0 for one), the home
    mounted."""

    image: str
    """Image of the pod, which holds this package."""

    home_path: str
    """Where this process sees the home; the pod sees it there too."""

    home_claim: str = "devopsgpt-home"
    """PersistentVolumeClaim of the home, one that many pods may write."""

    kubeconfig: str = ""
    """File that names the cluster; empty for the one that this process runs in, else
    KUBECONFIG's."""

    namespace: str = "default"
    """Namespace of the pods."""

    cpu: str = "8"
    """Limit of the pod, in cores."""

    memory: str = "32Gi"
    """Limit of the pod."""

    poll_interval_s: float = 5.0
    """Seconds between looks at the pod's state."""

    patience_s: float = 300.0
    """Seconds that a trainer goes on without a sign of life from its launcher."""

    def train(self, context: Context, job: TrainingJob, on_metrics: OnMetrics) -> None:
        """See Launcher. A pod that an earlier launcher left behind is deleted first, and waited
        for.

        raises: also RuntimeError without the extra `cluster`
        """
        client = self._pipes_client(on_metrics)
        from dagster_k8s.client import DagsterK8sError, DagsterKubernetesClient

        job_file = hand_over(dataclasses.replace(job, parent_pid=0, heartbeat_s=self.patience_s))
        client._load_k8s_config()  # for our own calls before its run: the same cluster
        api: Any = DagsterKubernetesClient.production_client()  # type: ignore[no-untyped-call]
        self._end_pods(api, job)
        operation = (
            context.op_execution_context
            if isinstance(context, dg.AssetExecutionContext)
            else context
        )
        try:
            try:
                with beating(job.out / HEARTBEAT_FILE):
                    client.run(
                        context=operation,
                        namespace=self.namespace,
                        base_pod_meta={"labels": {LABEL: label_of(job)}},
                        base_pod_spec=self.pod_spec(job_file, job.config.device),
                    )
            finally:
                self._end_pods(api, job)  # a terminated trainer is still saving
        except DagsterK8sError as error:
            raise TrainingFailed(
                f"the training's pod failed: {words_of_failure(job)} ({error})"
            ) from error
        except BaseException:
            # its last line, which nobody reads from a pod that is deleted
            context.log.info(words_of_failure(job))
            raise

    def pod_spec(self, job_file: Path, device: str) -> dict[str, Any]:
        """The pod, confined as all of ours are. device: "cpu" asks for no GPU"""
        processes = self.processes or 1
        limits = {"cpu": self.cpu, "memory": self.memory}
        if device != "cpu":
            limits["nvidia.com/gpu"] = str(processes)
        from kubernetes.utils import parse_quantity  # type: ignore[import-untyped]

        environment = {
            "HOME": "/tmp",
            **self.for_torchrun(processes, int(parse_quantity(self.cpu))),
        }
        mounts = {"home": self.home_path, "tmp": "/tmp", "shm": "/dev/shm"}
        container = {
            "name": "training",
            "image": self.image,
            "command": command_of(job_file, processes, python="python"),
            "env": [{"name": name, "value": value} for name, value in environment.items()],
            "resources": {"requests": limits, "limits": limits},
            "securityContext": {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
        }
        user = {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
        return {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": int(self.termination_timeout_s),
            "securityContext": {
                "runAsNonRoot": True,
                **user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
            ],
            "containers": [container],
            "volumes": [
                {"name": "home", "persistentVolumeClaim": {"claimName": self.home_claim}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
                # ranks talk through it
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            ],
        }

    def _pipes_client(self, on_metrics: OnMetrics) -> Any:
        try:
            from dagster_k8s import PipesK8sClient
            from dagster_k8s.pipes import PipesK8sPodLogsMessageReader
        except ImportError as error:
            raise RuntimeError(
                "the kubernetes launcher needs the extra `cluster`: pip install '.[cluster]'"
            ) from error

        class LiveReader(PipesK8sPodLogsMessageReader):
            """Passes the trainer's reports on as they come; the client itself keeps them to the
            end."""

            @contextmanager
            def read_messages(self, handler: Any) -> Iterator[Any]:
                relay: Any = Relay(handler, on_metrics)
                with super().read_messages(relay) as parameters:
                    yield parameters

        return PipesK8sClient(
            message_reader=LiveReader(),
            kubeconfig_file=self.kubeconfig or None,
            poll_interval=self.poll_interval_s,
        )

    def _end_pods(self, api: "DagsterKubernetesClient", job: TrainingJob) -> None:
        """Delete whatever pod works in the job's folder, and wait until it has saved and is
        gone."""
        deadline = time.monotonic() + self.termination_timeout_s + 30
        while pods := api.core_api.list_namespaced_pod(
            self.namespace, label_selector=f"{LABEL}={label_of(job)}"
        ).items:
            for pod in pods:
                if pod.metadata.deletion_timestamp is None:
                    api.core_api.delete_namespaced_pod(pod.metadata.name, self.namespace)
            if time.monotonic() > deadline:
                raise TrainingFailed(
                    f"pod {pods[0].metadata.name} was deleted and does not end; look at its node"
                )
            time.sleep(min(1.0, self.poll_interval_s))


class Relay:
    """Stands before Dagster's handler of messages, and hears the trainer's own among them."""

    def __init__(self, handler: Any, on_metrics: OnMetrics) -> None:
        self._handler, self._on_metrics = handler, on_metrics

    def handle_message(self, message: Any) -> None:
        """Pass a message on."""
        self._handler.handle_message(message)
        if message["method"] == "report_custom_message":
            self._on_metrics(message["params"]["payload"])


def label_of(job: TrainingJob) -> str:
    """A label's value for the job's folder."""
    return hashlib.sha256(str(job.out).encode()).hexdigest()[:16]


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Touch a file every few seconds: how a trainer on another machine knows that its launcher
    lives."""
    path.touch()
    with repeat_every(HEARTBEAT_S, lambda: os.utime(path)):
        yield
