"""docker-compose.yml, the Dockerfile and .env hold what they promise, as far as files can tell."""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose
from conftest import REPOSITORY

from deploy.compose import (
    COMPOSE_FILE,
    MAKE_ENV,
    SECRETS,
    MissingVariable,
    load,
    start_order,
    write_env,
)
from devopsgpt_pipeline.home import Home

GPU_FILE = REPOSITORY / "deploy/gpu.compose.yml"


@pytest.fixture(scope="module")
def services(variables):
    return load(variables)["services"]


@pytest.mark.parametrize("path", [COMPOSE_FILE, GPU_FILE], ids=lambda path: path.name)
def test_the_file_follows_the_compose_specification(path, variables):
    document = load(variables, path)
    for service in document[
        "services"
    ].values():  # the library knows a tag or a digest, Docker both
        if "@" in service.get("image", ""):
            service["image"] = re.sub(r":[^:@]+@", "@", service["image"])
    PyCompose.from_yaml(yaml.safe_dump(document))
    name = next(iter(document["services"]))
    for wrong in (
        {"prots": ["80"]},
        {"read_only": ["yes"]},
        {"deploy": {"resources": {"limit": {}}}},
    ):
        spoilt = {"services": {name: document["services"][name] | wrong}}
        with pytest.raises(ValueError, match=r"prots|limit|expected a boolean"):
            PyCompose.from_yaml(yaml.safe_dump(spoilt))


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_secret_is_refused(name, variables):
    with pytest.raises(MissingVariable, match=f"{name}: run make env"):
        load({key: value for key, value in variables.items() if key != name})


def test_no_secret_has_a_default():
    text = COMPOSE_FILE.read_text()
    assert not re.search(r"(PASSWORD|SECRET|_KEY)\w*:-\S", text)
    assert not re.search(r"postgresql[+\w]*://\w+:(?!\$\{)", text)


def test_make_env_writes_different_strong_secrets_for_its_owner_alone(tmp_path):
    subprocess.run(
        [sys.executable, MAKE_ENV], cwd=tmp_path, env={}, check=True, capture_output=True
    )
    path = tmp_path / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = dict(
        line.split("=") for line in path.read_text().splitlines() if not line.startswith("#")
    )
    assert set(values) == set(SECRETS)
    assert len(set(values.values())) == len(SECRETS)
    assert all(len(value) == 64 for value in values.values())
    with pytest.raises(FileExistsError):
        write_env(path)


def test_every_variable_that_the_file_insists_on_is_made():
    assert set(re.findall(r"\$\{(\w+):\?", COMPOSE_FILE.read_text())) == set(SECRETS)


def test_only_pages_and_the_api_are_published_and_only_on_loopback(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"mlflow", "webserver", "serving", "serving-vllm", "proxy"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_the_service_may_be_published_elsewhere(variables):
    services = load(variables | {"SERVICE_BIND": "192.0.2.7"})["services"]
    assert services["serving"]["ports"] == ["192.0.2.7:8000:8000"]


def test_every_container_is_confined(services):
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not str(service["user"]).startswith("0"), name
        assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert name == "backup" or service["healthcheck"]["test"][0] == "CMD", name


def test_a_capability_comes_back_only_where_a_file_carries_it(services):
    """The kernel refuses to start the official image's caddy, which carries this one, where it was
    dropped."""
    added = {name: service["cap_add"] for name, service in services.items() if "cap_add" in service}
    assert added == {"proxy": ["NET_BIND_SERVICE"]}


def test_a_volume_of_ours_begins_as_its_users(services):
    """A named volume takes the owner of the folder that the image has at its place."""
    dockerfile = (REPOSITORY / "deploy/Dockerfile").read_text()
    (made,) = re.findall(r"mkdir ([^&]+) && chown 10001:10001 ([^&\n]+)", dockerfile)
    assert made[0].split() == made[1].split()
    for name, service in services.items():
        if service["image"].startswith("devopsgpt-"):
            assert service["user"] == "10001:10001", name
            assert service["environment"]["HOME"] == "/tmp", name
            # /tmp is in every image, for everybody
            assert {mount.split(":")[1] for mount in service["volumes"]} <= {
                *made[0].split(),
                "/tmp",
            }, name


def test_a_step_copies_large_models_to_the_homes_disk(services, tmp_path, monkeypatch):
    """Its /tmp is memory, and less than a model."""
    environment = services["code"]["environment"]
    home = Home(Path(environment["DEVOPSGPT_HOME"]))
    assert environment["TMPDIR"] == str(home.temporary)
    assert f"home:{home.path}" in services["code"]["volumes"]
    fresh = Home(tmp_path / "home")
    monkeypatch.setenv("DEVOPSGPT_HOME", str(fresh.path))
    monkeypatch.setenv("TMPDIR", str(fresh.temporary))
    from devopsgpt_pipeline import definitions

    definitions._from_environment()  # as the code server and each step do first
    assert fresh.temporary.is_dir()


def test_mlflow_keeps_what_it_passes_on_to_a_bucket_on_a_disk(services):
    assert "spool:/tmp" in services["mlflow"]["volumes"]
    assert services["mlflow"]["tmpfs"] == []


def test_whoever_compiles_in_an_image_that_knows_no_such_user_has_a_name(services):
    assert services["vllm"]["environment"]["USER"] == "devopsgpt"


def test_an_image_that_trains_can_compile():
    pipeline = (REPOSITORY / "deploy/Dockerfile").read_text().split("FROM running AS pipeline")[1]
    assert " g++=" in pipeline.split("FROM")[0]


def test_every_image_has_an_exact_version(services):
    for name, service in services.items():
        tag, _, digest = service["image"].partition("@")
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$", tag), name
        # ours are built here; nobody here could look up vLLM's: docs/operations.md
        known = not tag.startswith(("devopsgpt-", "vllm/"))
        assert bool(re.fullmatch(r"sha256:[0-9a-f]{64}", digest)) is known, name


def test_every_foreign_image_that_ours_are_built_from_is_named_by_its_digest():
    dockerfile = (REPOSITORY / "deploy/Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+:\S+) AS", dockerfile, flags=re.MULTILINE)
    assert len(bases) == 2
    for base in bases:
        assert re.fullmatch(r"python:3\.11\.\d+-[a-z-]+@sha256:[0-9a-f]{64}", base)
    assert len({base.split("-")[0] for base in bases}) == 1


def test_services_start_when_what_they_need_is_healthy(services):
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, (name, needed)
    order = start_order(services)
    assert (
        order.index("postgres")
        < order.index("mlflow")
        < order.index("code")
        < order.index("webserver")
    )


def test_the_database_is_reached_from_inside_only(variables):
    document = load(variables)
    assert document["networks"]["inside"]["internal"] is True
    assert document["services"]["postgres"]["networks"] == ["inside"]
    assert document["services"]["daemon"]["networks"] == ["inside"]


def test_the_service_reaches_mlflow_and_nothing_of_the_pipeline(variables):
    document = load(variables)
    networks = {name: set(service["networks"]) for name, service in document["services"].items()}

    def reached_by(name):
        return {other for other in networks if other != name and networks[other] & networks[name]}

    assert reached_by("serving") == {"mlflow", "proxy", "serving-vllm"}
    assert reached_by("serving-vllm") == {"mlflow", "proxy", "serving", "vllm"}
    assert reached_by("vllm") == {"serving-vllm"}
    assert reached_by("postgres") == {"mlflow", "code", "webserver", "daemon", "backup"}
    outward = {
        name for name in document["networks"] if not document["networks"][name].get("internal")
    }
    assert outward == {"api", "outside"}
    masquerade = {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    assert document["networks"]["api"]["driver_opts"] == masquerade
    assert networks["serving"] & outward == {"api"}  # a port for callers, no way to the internet


def test_the_webserver_has_the_guard_before_it(services):
    assert services["webserver"]["command"][:3] == [
        "python",
        "-m",
        "devopsgpt_pipeline.operations.webserver",
    ]
    # Helm's chart starts it by another name
    dockerfile = (REPOSITORY / "deploy/Dockerfile").read_text()
    assert 'exec python -m devopsgpt_pipeline.operations.webserver "$@"' in dockerfile
    assert "> /venv/bin/dagster-webserver\n" in dockerfile


def test_mlflow_and_dagster_know_the_proxy_by_its_name(variables):
    chosen = {"PROXY_HOST": "ml.example", "PROXY_MLFLOW_PORT": "9444"}
    services = load(variables | chosen)["services"]
    origins = services["mlflow"]["environment"]["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"]
    assert origins == "https://ml.example:9444"
    assert services["webserver"]["environment"]["DEVOPSGPT_DAGSTER_HOSTS"] == "ml.example,"


def test_every_mounted_volume_is_named_or_a_file_of_ours(variables):
    document = load(variables)
    for service in document["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in document["volumes"] or (REPOSITORY / source).is_file(), mount


def test_both_instance_files_agree_beside_storage():
    laptop = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    cluster = yaml.safe_load((REPOSITORY / "deploy/dagster/dagster.yaml").read_text())
    for key in laptop:
        shared = {name: value for name, value in cluster[key].items() if name in laptop[key]}
        assert shared == laptop[key], key


@pytest.mark.parametrize("spoil", [None, "FROM python:latest\n"])
def test_the_dockerfile_passes_its_linter(spoil, tmp_path):
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(spoil or (REPOSITORY / "deploy/Dockerfile").read_text())
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    answer = subprocess.run([hadolint, "--no-color", dockerfile], capture_output=True, text=True)
    assert (answer.returncode == 0) is (spoil is None), answer.stdout


def test_the_dockerfile_copies_what_exists_and_is_not_ignored():
    ignored = (REPOSITORY / ".dockerignore").read_text()
    for line in (REPOSITORY / "deploy/Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (REPOSITORY / source).exists(), source
                assert f"!{source.split('/')[0]}\n" in ignored, source


@pytest.mark.parametrize("target", ["pipeline", "serving"])
def test_a_line_of_ours_rebuilds_only_what_is_copied_after_the_dependencies(target):
    """A layer is built anew when one before it changed: no apt-get and no /venv behind our own
    files."""
    stages = re.split(r"^FROM ", (REPOSITORY / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)
    (running,) = [stage for stage in stages if stage.startswith("base AS running\n")]
    (image,) = [stage for stage in stages if stage.startswith(f"running AS {target}\n")]
    dear, ours = re.compile(r"^RUN|^COPY --from=\S+-dependencies"), re.compile(r"^COPY (?!--from)")
    lines = [line for stage in (running, image) for line in stage.splitlines()]
    last_dear = max(number for number, line in enumerate(lines) if dear.match(line))
    assert "/venv" in lines[last_dear]
    assert min(number for number, line in enumerate(lines) if ours.match(line)) > last_dear


def test_torchs_cpu_build_is_a_setting(variables, services):
    index = "https://download.pytorch.org/whl/cpu"
    chosen = load(variables | {"PIP_EXTRA_INDEX_URL": index})["services"]
    built = [name for name, service in services.items() if "build" in service]
    assert {"code", "mlflow", "serving", "serving-vllm"} <= set(built)
    for name in built:
        assert chosen[name]["build"]["args"] == {"PIP_EXTRA_INDEX_URL": index}
        assert services[name]["build"]["args"] == {"PIP_EXTRA_INDEX_URL": ""}
    assert index in (REPOSITORY / "docs/operations.md").read_text()


def test_the_serving_image_has_neither_dagster_nor_the_whole_of_mlflow():
    names = subprocess.run(
        [sys.executable, "deploy/requirements.py", "serving", "tracing"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "mlflow-skinny" in names
    assert not {"mlflow", "dagster", "dagster-webserver"} & set(names)
    assert any(name.startswith("torch") for name in names)


def test_the_health_check_tells_200_from_the_rest(mlflow_server):
    check = [sys.executable, REPOSITORY / "deploy/healthy.py"]
    assert subprocess.run([*check, f"{mlflow_server.url}/health"]).returncode == 0
    for url in (f"{mlflow_server.url}/nothing-here", "http://127.0.0.1:9/"):
        answer = subprocess.run([*check, url], capture_output=True, text=True)
        assert answer.returncode == 1
        assert url in answer.stderr
