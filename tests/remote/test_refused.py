"""What is said before any worker is started."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import small_models
import torch

from circuits.errors import CircuitError, ModelError
from circuits.remote import ray_workers
from circuits.remote.cluster import connected, room
from circuits.remote.workers import _cpus, _size


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CircuitError, match=r"circuit-patching\[ray\]"), ray_workers(small_models.model("gemma")):
        pass


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"workers": 0}, "0 workers; give at least 1"),
        ({"gpus_per_worker": 1}, "same kind of device"),
        ({"cpus_per_worker": -1}, "same kind of device"),
        ({"cpus_per_worker": 0}, "no limit to their number"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, said):
    with pytest.raises(CircuitError, match=said), ray_workers(small_models.model("gemma"), **asked):
        pass


def test_a_model_changed_in_memory_is_refused_before_anything_is_sent():
    changed = replace(small_models.model("gemma"), edits="1 direction ablated")
    with pytest.raises(ModelError, match=r"changed in memory \(1 direction ablated\)"), ray_workers(changed):
        pass


def test_a_worker_takes_a_gpu_of_its_own_or_a_part_of_one():
    assert _size(torch.device("cuda", 0), None, None) == (1.0, 1.0)
    assert _size(torch.device("cuda"), 0.5, 2) == (2, 0.5)
    for wrong in (0, 1.5):
        with pytest.raises(CircuitError, match="gpus_per_worker"):
            _size(torch.device("cuda", 0), wrong, None)
    with pytest.raises(ModelError, match="CUDA_VISIBLE_DEVICES"):
        _size(torch.device("cuda", 1), None, None)
    with pytest.raises(ModelError, match="not meta"):
        _size(torch.device("meta"), None, None)


def test_room_is_counted_node_by_node():
    def node(cpus, gpus, *, alive=True):
        return {"Alive": alive, "Resources": {"CPU": cpus} | ({"GPU": gpus} if gpus else {})}

    nodes = [node(8.0, 2.0), node(3.0, 2.0), node(64.0, 0), node(8.0, 8.0, alive=False)]
    assert room(nodes, 2, 1) == 2 + 1
    assert room(nodes, 2, 0.5) == 4 + 1
    assert room(nodes, 2, 0) == 4 + 1 + 32
    assert room(nodes, 0, 1) == 4


def test_a_cluster_started_here_has_the_cpus_that_are_asked_for():
    assert _cpus(None, 4) is None
    assert _cpus(1000, 2) == 2000
    assert _cpus(1000, 1.0005) == 1001


def test_an_address_without_a_cluster_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(CircuitError, match="no Ray cluster at 'auto'"), connected("auto", cpus=1, gpus=0):
        pass
