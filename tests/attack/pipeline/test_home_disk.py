"""A disk that is really full, at another writer each time: one sentence, and the same command goes
on once there is room."""

import resource
import subprocess
from contextlib import contextmanager

import pytest

from attack.pipeline import homes

# what a disk holds: too little for MLflow's database, Dagster's, the archive, the bins, ...
SIZES_KB = [128, 512, 1024, 1536, 2048, 2560, 3072, 3584, 4096, 4608, 5120, 5632]
ROOM = "64m"


@contextmanager
def small_disk(folder, size):
    """A file system of a size, where this process may mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this process may not mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def told(ended):
    assert "Traceback" not in ended.output, ended.output
    assert ended.status == 1, ended.output
    assert ended.error, ended.output
    assert len(ended.error.splitlines()) == 1, ended.error
    return ended.error


def fill(place, sizes, champion, tried):
    with small_disk(place, f"{sizes[0]}k") as disk:
        home = disk / "home"
        log = place.with_name("outside")  # what the test itself writes
        log.mkdir()
        for size in sizes:
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
            ended = homes.run(home, place=log)
            if ended.status == 0:  # it all fits
                break
            error = told(ended)
            assert "the disk is full" in error or "cannot be written" in error
            tried(f"a home on a disk of {size:,} kB", error)
        else:
            subprocess.run(["mount", "-o", f"remount,size={ROOM}", disk], check=True)
            ended = homes.run(home, place=log)
        assert ended.status == 0, ended.output
        assert ended.champion == champion


@pytest.mark.timeout(300)
def test_a_full_disk_is_told_and_the_same_command_goes_on(tmp_path, finished, tried):
    fill(tmp_path / "disk", [1536], finished[1], tried)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_disk_that_is_full_at_every_writer(tmp_path, finished, tried):
    fill(tmp_path / "disk", SIZES_KB, finished[1], tried)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("limit", [4096, 65_536, 262_144])
def test_a_limit_of_file_sizes_is_told_and_nothing_is_broken(limit, home, finished, tried):
    (home / "checkpoints" / "evaluation.json").unlink()
    (home / "tokens" / "books").unlink()
    limits = {resource.RLIMIT_FSIZE: (limit, resource.RLIM_INFINITY)}
    tried(f"files of at most {limit:,} bytes", told(homes.run(home, limits=limits)))
    assert homes.run(home).champion == finished[1]
