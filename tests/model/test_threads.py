"""How many threads compute in a container: its quota is read from a tree of files like the
kernel's."""

import os
import threading

import pytest
import torch

from devopsgpt_model import threads
from devopsgpt_model.threads import keep_to_quota, usable_cpus

V2, V1 = "0::/pod/container\n", "5:devices:/pod\n4:cpu,cpuacct:/pod/container\n1:name=systemd:/\n"
GROUPS = "sys/fs/cgroup/"
V1_GROUPS = GROUPS + "cpu,cpuacct/"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A way to lay out a machine of 32 processors. Arguments: /proc/self/cgroup, other files under
    their paths"""
    monkeypatch.setattr(threads, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)))

    def lay_out(cgroup, files):
        for path, content in (files | {"proc/self/cgroup": cgroup}).items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)

    return lay_out


@pytest.fixture
def _torch_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    [
        pytest.param(
            V2, {GROUPS + "pod/container/cpu.max": "400000 100000\n"}, 4, id="v2: its own group"
        ),
        pytest.param(V2, {GROUPS + "pod/cpu.max": "200000 100000\n"}, 2, id="v2: a group above"),
        pytest.param(
            V2,
            {GROUPS + "cpu.max": "400000 100000\n"},
            4,
            id="v2: a container sees its group as the root",
        ),
        pytest.param(
            V2,
            {
                GROUPS + "pod/container/cpu.max": "max 100000\n",
                GROUPS + "pod/cpu.max": "300000 100000\n",
            },
            3,
            id="v2: the least of all",
        ),
        pytest.param(V2, {GROUPS + "cpu.max": "150000 100000\n"}, 2, id="v2: one and a half"),
        pytest.param(V2, {GROUPS + "cpu.max": "5000 100000\n"}, 1, id="v2: a twentieth"),
        pytest.param(
            V2, {GROUPS + "cpu.max": "9900000 100000\n"}, 32, id="v2: more than there are"
        ),
        pytest.param(V2, {GROUPS + "cpu.max": "max 100000\n"}, 32, id="v2: no limit"),
        pytest.param(
            V1,
            {
                V1_GROUPS + "pod/container/cpu.cfs_quota_us": "400000\n",
                V1_GROUPS + "pod/container/cpu.cfs_period_us": "100000\n",
            },
            4,
            id="v1: its own group",
        ),
        pytest.param(
            V1,
            {
                V1_GROUPS + "cpu.cfs_quota_us": "100000\n",
                V1_GROUPS + "cpu.cfs_period_us": "50000\n",
            },
            2,
            id="v1: the root",
        ),
        pytest.param(
            V1,
            {V1_GROUPS + "cpu.cfs_quota_us": "-1\n", V1_GROUPS + "cpu.cfs_period_us": "100000\n"},
            32,
            id="v1: no limit",
        ),
        pytest.param(
            V1,
            {GROUPS + "devices/pod/cpu.max": "100000 100000\n"},
            32,
            id="another controller's group",
        ),
        pytest.param("", {}, 32, id="no control groups"),
    ],
)
def test_usable_cpus_are_the_least_of_processors_and_quotas(machine, cgroup, files, cpus):
    machine(cgroup, files)
    assert usable_cpus() == cpus


def test_usable_cpus_are_those_that_the_process_is_bound_to(machine, monkeypatch):
    machine(V2, {GROUPS + "cpu.max": "400000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 6})
    assert usable_cpus() == 2


@pytest.mark.usefixtures("_torch_as_before")
def test_a_quota_holds_on_threads_that_begin_later(machine):
    torch.set_num_threads(3)
    # it takes threads away and never adds any
    for quota, expected in {"max 100000\n": 3, "200000 100000\n": 2, "900000 100000\n": 2}.items():
        machine(V2, {GROUPS + "cpu.max": quota})
        keep_to_quota()
        seen = []
        thread = threading.Thread(target=lambda seen=seen: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert [torch.get_num_threads(), *seen] == [expected, expected]
