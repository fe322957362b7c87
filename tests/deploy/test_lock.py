"""constraints.lock has the hashes of constraints.txt, and what an image installs comes by them."""

import hashlib
import json
import re
import runpy
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import REPOSITORY

LOCKED = REPOSITORY / "deploy/locked.py"
split = runpy.run_path(str(LOCKED))["split"]
LOCK = (REPOSITORY / "constraints.lock").read_text()


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text):
    return {
        normal(name): version
        for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, flags=re.MULTILINE)
    }


def test_the_lock_is_the_constraints_with_hashes():
    pinned = pins((REPOSITORY / "constraints.txt").read_text())
    assert pinned.pop("torch")  # its CPU build has none that could be used
    assert pins(LOCK) == pinned, "run `make lock`"
    entries = re.split(r"\n(?=\w)", LOCK)[1:]
    assert len(entries) == len(pinned)
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_the_lock_names_no_index():
    assert "://" not in LOCK


def report(*pinned):
    chosen = [dict(zip(("name", "version"), each.split("=="), strict=True)) for each in pinned]
    return json.dumps({"install": [{"metadata": each} for each in chosen]})


def test_what_pip_chose_is_split_by_whether_it_has_hashes():
    version = pins(LOCK)["typing-extensions"]
    chosen = report(f"typing_extensions=={version}", "torch==2.13.0+cpu", "nvidia-nccl-cu13==2.1")
    locked, unlocked = split(chosen, LOCK)
    assert unlocked == ["torch==2.13.0+cpu", "nvidia-nccl-cu13==2.1"]
    (entry,) = locked
    assert entry.startswith(f"typing-extensions=={version} \\\n    --hash=sha256:")


@pytest.mark.parametrize("pinned", ["sqlalchemy-utils==0.41.2", "click==0.1", "torchtune==0.6"])
def test_what_the_lock_lacks_is_refused(pinned, tmp_path):
    (tmp_path / "chosen.json").write_text(report(pinned))
    words = ["chosen.json", REPOSITORY / "constraints.lock", "locked.txt", "unlocked.txt"]
    done = subprocess.run(
        [sys.executable, LOCKED, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert pinned in done.stderr
    assert "make lock" in done.stderr
    assert not (tmp_path / "locked.txt").exists()


@pytest.mark.parametrize("spoilt", [False, True])
def test_pip_takes_a_package_by_its_hash_alone(tmp_path, spoilt):
    """A wheel of our own, since tests have no index."""
    name = "tiny_wheel-1.0-py3-none-any.whl"
    meta = "Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n"
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr("tiny_wheel-1.0.dist-info/METADATA", meta)
        wheel.writestr("tiny_wheel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_wheel-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    lock = f"tiny-wheel==1.0 \\\n    --hash=sha256:{'0' * 64 if spoilt else digest}\n"
    locked, _ = split(report("tiny_wheel==1.0"), lock)
    (tmp_path / "locked.txt").write_text("\n".join(locked))
    command = [sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "--no-deps"]
    command += ["--find-links", tmp_path, "--target", tmp_path / "there", "--require-hashes"]
    done = subprocess.run([*command, "-r", tmp_path / "locked.txt"], capture_output=True, text=True)
    assert (done.returncode != 0) is spoilt, done.stderr
    assert ("DO NOT MATCH" in done.stderr) is spoilt


def test_the_images_install_by_hash():
    dockerfile = (REPOSITORY / "deploy/Dockerfile").read_text()
    installs = re.findall(r"pip install ([^\\&\n]+)", dockerfile)
    assert len(installs) == 6
    assert all("--only-binary :all:" in each for each in installs)  # nothing of a package runs
    by_hash = [each for each in installs if "--require-hashes -r locked.txt" in each]
    assert len(by_hash) == 2
    assert {each.strip() for each in installs if "--dry-run" not in each} == {
        by_hash[0].strip(),
        "--no-deps --only-binary :all: -r unlocked.txt",
    }


SCANNER = """#!/bin/sh
case "$*" in
  *bad*) echo CVE-2026-1; exit 2;;
  *missing*) echo 'no such image' >&2; exit 1;;
esac
"""


@pytest.mark.parametrize("name", ["trivy", "grype", None])
def test_a_scan_fails_for_findings_and_says_what_it_could_not_scan(tmp_path, name):
    """A stand-in for a scanner: neither could be had where this is tested."""
    if name:
        (tmp_path / name).write_text(SCANNER)
        (tmp_path / name).chmod(0o755)
    assert not any(shutil.which(each, path="/bin") for each in ("trivy", "grype"))

    def scan(*images):
        return subprocess.run(
            [sys.executable, REPOSITORY / "deploy/scan.py", *images],
            env={"PATH": f"{tmp_path}:/bin"},
            capture_output=True,
            text=True,
        )

    found, fine = scan("good:1", "missing:1", "bad:1"), scan("good:1", "missing:1")
    assert fine.returncode == 0
    if name is None:
        assert found.returncode == 0
        assert found.stdout == "not scanned: neither trivy nor grype is installed\n"
        return
    assert found.returncode == 1
    assert "bad:1: findings\nCVE-2026-1" in found.stdout
    assert "missing:1: not scanned: no such image" in fine.stdout
    assert "good:1: no known vulnerability" in fine.stdout


def test_a_scan_takes_every_image_that_the_compose_file_runs():
    images = runpy.run_path(str(REPOSITORY / "deploy/scan.py"))["images"]()
    names = {re.split(r"[:@]", each)[0] for each in images}
    own = {"devopsgpt-pipeline", "devopsgpt-serving"}
    assert names == own | {"postgres", "caddy", "vllm/vllm-openai"}
    assert len(images) == len(set(images))


def test_targets_exist_for_what_the_documents_tell():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in ("lock", "sbom", "scan"):
        assert re.search(rf"^{target}:.*## ", makefile, flags=re.MULTILINE)
        assert f"make {target}" in (REPOSITORY / "docs/operations.md").read_text()
