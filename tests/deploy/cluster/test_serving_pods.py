"""The service's pods: where its keys come from, and how vLLM beside it is started and probed."""

import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import REPOSITORY

from deploy.cluster.test_kubernetes import pods
from deploy.compose import SECRETS
from devopsgpt_serving.settings import PREFIX, Settings


def test_vllm_finds_its_start_script_and_a_name_of_its_user():
    (pod,) = [pod for name, pod in pods() if name == "serving-vllm.yaml-Deployment"]
    vllm = pod["containers"][1]
    assert {"name": "USER", "value": "devopsgpt"} in vllm["env"]
    (script,) = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    (mount,) = [each["mountPath"] for each in vllm["volumeMounts"] if each["name"] == "follow"]
    command = (
        f"kubectl create configmap {script} --namespace devopsgpt --from-file=deploy/vllm/follow.sh"
    )
    assert command in (REPOSITORY / "docs/operations.md").read_text()
    assert vllm["command"][1] == f"{mount}/follow.sh"


@pytest.mark.parametrize("name", ["serving", "serving-vllm"])
def test_the_services_keys_are_a_file_that_it_can_read(name, tmp_path):
    (pod,) = [pod for each, pod in pods() if each == f"{name}.yaml-Deployment"]
    container = pod["containers"][0]
    names = {each["name"]: each.get("value") for each in container["env"]}
    assert f"{PREFIX}API_KEYS" not in names
    path = Path(names[f"{PREFIX}API_KEYS_FILE"])
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == str(path.parent)]
    (secret,) = [each["secret"] for each in pod["volumes"] if each["name"] == mount["name"]]
    assert mount["readOnly"] is True
    assert secret["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    assert secret["items"] == [{"key": "DEVOPSGPT_API_KEY", "path": path.name}]
    assert "DEVOPSGPT_API_KEY" in SECRETS
    (tmp_path / path.name).write_text("a-key")  # as kubectl's --from-env-file makes it: no newline
    settings = Settings(host=names[f"{PREFIX}HOST"], api_keys_file=tmp_path / path.name)
    assert settings.accepted_keys() == ["a-key"]


@contextmanager
def vllm_that_answers(status):
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_vllm_is_probed_where_it_listens_and_only_once_it_has_a_version(tmp_path):
    (pod,) = [pod for name, pod in pods() if name == "serving-vllm.yaml-Deployment"]
    vllm = pod["containers"][1]
    probes = [vllm[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    commands = {tuple(probe["exec"]["command"]) for probe in probes}
    assert len(commands) == 1
    (command,) = commands
    assert "/cache/vllm" in command[2]
    assert ":8001/health" in command[2]
    for probe in (probes[0], probes[2]):  # a new version may take so long
        patience = probe["periodSeconds"] * probe["failureThreshold"]
        assert patience > Settings.model_fields["vllm_start_s"].default
    link = tmp_path / "vllm"

    def probe(port):
        words = [
            word.replace("/cache/vllm", str(link)).replace("8001", str(port)) for word in command
        ]
        return subprocess.run(words, capture_output=True).returncode

    with vllm_that_answers(200) as well, vllm_that_answers(503) as ill:
        assert probe(9) == 0  # no version yet
        (tmp_path / "version").mkdir()
        link.symlink_to("version")
        assert probe(well) == 0
        assert probe(ill) != 0
        assert probe(9) != 0
