"""A disk that fills while a chain runs. The promises are those of test_killed_chains.py."""

import os
import shutil
import subprocess

import pytest

from chaos.world import end, nothing_lost, served

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(590)]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this process may not mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_fills(small_disk, tmp_path):
    with served(tmp_path, chain_home=small_disk / "home") as world, nothing_lost(world):
        filler = small_disk / "filler"
        for left in (300_000, 60_000, 0):  # runs out at another place each time
            filler.unlink(missing_ok=True)
            free = shutil.disk_usage(small_disk).free
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, free - left) // 4096 * 4096 or 1)
            chain = world.chain(seed=70)
            try:
                assert chain.wait(120) != 0, "the disk was not full"
            finally:
                end(chain)
        filler.unlink()
        world.complete(seed=70)
