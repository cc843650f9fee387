"""On a real cluster of two processes the numbers are those of one, bit by bit, also where one of them is killed."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import final

import pytest
import small_models
import tiny
import torch

from circuits.engine import sweep, task
from circuits.engine.kept import keep
from circuits.engine.perform import executed_by
from circuits.engine.progress import listening
from circuits.engine.task import blocks_of_work
from circuits.engine.worker import Worker
from circuits.errors import AuditError, CircuitError, ModelError
from circuits.interventions import Ablate, Add, Patch, Rotate
from circuits.metrics import BoundMetric, LogitDifference, Metric
from circuits.model import load
from circuits.remote import ray_workers
from circuits.sites import Site, head

TOKENS = small_models.uneven()
WORK = 1e6
"""Multiplications in a block: some forty blocks of the cells below."""
SHARE = 0.25
"""CPUs that a worker asks for: there is room for more of them on any machine."""


def cells(model):
    """Residual, heads, several positions and sites, and parameters of each pair."""
    shape, n = model.shape, TOKENS.n_pairs
    torch.manual_seed(1)
    direction, vector = torch.randn(n, shape.d_model), torch.randn(n, shape.d_model)
    plane = torch.linalg.qr(torch.randn(shape.d_model, 2)).Q.T.contiguous()
    layers = range(shape.n_layers)
    return [
        *[(Patch(Site("resid_pre", layer), "last"),) for layer in layers],
        *[(Patch(head(layer, i), "last"),) for layer in layers for i in range(shape.n_heads)],
        *[(Patch(Site("mlp_out", layer), "all"), Patch(Site("attn_out", layer), "subject")) for layer in layers],
        *[(Ablate(Site("resid_pre", layer), direction, "all"),) for layer in layers],
        *[(Add(Site("resid_pre", layer), vector, "last", torch.linspace(-1, 1, n)),) for layer in layers],
        *[(Rotate(Site("resid_pre", layer), plane, torch.linspace(0, 90, n)),) for layer in layers],
    ]


@pytest.fixture(scope="module")
def model():
    return small_models.model("gemma2")


@pytest.fixture(scope="module")
def metric(model):
    return LogitDifference(model)


@contextmanager
def cut():
    """Sweeps in small blocks, and the pairs in two parts."""
    with pytest.MonkeyPatch.context() as patch, blocks_of_work(WORK):
        patch.setattr(task, "_KEPT_RUNS", 80_000)  # bytes; a pair takes 25,600
        yield


@pytest.fixture(scope="module")
def here(model, metric):
    with cut():
        return sweep(model, TOKENS, metric, cells(model), direction="noise")


@pytest.fixture(scope="module")
def pool(model, here):
    from ray import cloudpickle

    del here  # measured before workers stand in
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_workers(model, workers=2, cpus_per_worker=SHARE) as workers, cut():
        yield workers
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def equal(a, b):
    def told(certificate):
        return {name: repr(value) for name, value in asdict(certificate).items()}

    same = all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("value", "base", "source"))
    return same and told(a.certificate) == told(b.certificate)


@final
class Watched:
    """An executor that tells of every answer of another one."""

    def __init__(self, inner, then):
        self.inner, self.then, self.jobs, self.answers = inner, then, 0, 0

    def __call__(self, tasks, jobs):
        self.jobs += len(jobs)
        for place, answer in self.inner(tasks, jobs):
            self.answers += 1
            self.then(self.answers)
            yield place, answer


def test_two_workers_give_the_numbers_of_one_process(pool, model, metric, here):
    shares = []
    watched = Watched(pool, lambda _: None)
    with listening(shares.append), executed_by(model, watched):
        there = sweep(model, TOKENS, metric, cells(model), direction="noise")
    assert equal(here, there)
    assert watched.jobs == watched.answers >= 12 + 2  # the last two are audits
    assert sum(shares) == pytest.approx(1)
    pids = {where.pid for where in pool.here}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert pool.line == "2 workers on 1 node"


def test_one_worker_killed_in_the_middle_changes_no_number(pool, model, metric, here, tmp_path, caplog, capfd):
    victim = pool.here[0].pid

    def kill(answers):
        if answers == 3:
            os.kill(victim, signal.SIGKILL)

    watched = Watched(pool, kill)
    with keep(tmp_path) as kept, executed_by(model, watched), caplog.at_level(logging.WARNING, "circuits"):
        there = sweep(model, TOKENS, metric, cells(model), direction="noise")
        assert (kept.found, kept.made) == (0, watched.jobs)
    assert equal(here, there)
    lost = [record.getMessage() for record in caplog.records]
    assert len(lost) == 1
    assert f"process {victim}) is lost" in lost[0]
    assert "started again (1 of 3)" in lost[0]
    assert "".join(capfd.readouterr()) == ""

    def nobody(answers):
        raise AssertionError(answers)

    with keep(tmp_path) as kept, executed_by(model, Watched(pool, nobody)):
        assert equal(here, sweep(model, TOKENS, metric, cells(model), direction="noise"))
        assert (kept.found, kept.made) == (watched.jobs, 0)


def test_a_sweep_that_is_stopped_leaves_the_workers_ready(pool, model, metric, here):
    def stop(answers):
        if answers == 3:
            raise KeyboardInterrupt

    with executed_by(model, Watched(pool, stop)), pytest.raises(KeyboardInterrupt):
        sweep(model, TOKENS, metric, cells(model), direction="noise")
    assert equal(here, sweep(model, TOKENS, metric, cells(model), direction="noise"))


@final
class Planted(Metric):
    """A metric that is the first logit, with something wrong with it."""

    def __init__(self, wrong, held=None):
        self.name, self.wrong, self.held = f"planted {wrong}", wrong, held

    def bind(self, pairs):
        return BoundPlanted(self.wrong, pairs.n_pairs)


@final
class BoundPlanted(BoundMetric):
    def __init__(self, wrong, n_pairs):
        self.wrong, self.n_pairs = wrong, n_pairs

    def __call__(self, logits):
        if self.wrong == "raises":
            raise ZeroDivisionError("planted")
        return logits[..., 0].float()

    def pullback(self, w_u):
        return w_u[1].float().expand(self.n_pairs, -1) if self.wrong == "pullback" else None


def test_an_audit_that_fails_there_fails_here(pool, model):
    some = cells(model)[:6]
    uncapped = small_models.model("gemma")
    with pytest.raises(AuditError, match="readout check") as locally:
        sweep(uncapped, TOKENS, Planted("pullback"), some)
    with ray_workers(uncapped, workers=1, cpus_per_worker=SHARE), pytest.raises(AuditError) as remotely:
        sweep(uncapped, TOKENS, Planted("pullback"), some)
    assert type(remotely.value) is AuditError
    assert str(remotely.value) == str(locally.value)
    assert "raised on worker 1" in remotely.value.__notes__[0]
    assert len(pool.here) >= 1


@pytest.mark.usefixtures("pool")
def test_a_job_that_fails_everywhere_is_named(model, metric, here):
    with pytest.raises(CircuitError, match=r"block \d+ of \d+ \(.* on \d pairs\) failed on workers 3 times.*planted"):
        sweep(model, TOKENS, Planted("raises"), cells(model))
    assert equal(here, sweep(model, TOKENS, metric, cells(model), direction="noise"))


@pytest.mark.usefixtures("pool")
def test_what_cannot_be_sent_is_named_before_anything_is(model):
    with pytest.raises(CircuitError, match="the metric planted lock cannot be sent to workers"):
        sweep(model, TOKENS, Planted("lock", threading.Lock()), cells(model)[:2])
    value = torch.zeros(model.shape.d_model)
    value.lock = threading.Lock()
    with pytest.raises(CircuitError, match=r"cell 1 \(L1.MLP\) cannot be sent to workers"):
        sweep(model, TOKENS, Planted(""), [cells(model)[0], (Patch(Site("mlp_out", 1), "all", value),)])


@pytest.mark.usefixtures("pool")
def test_other_weights_are_refused_or_sent(metric):
    folder = small_models.folder("gemma2")
    changed = load(str(folder), device="cpu", tokenizer=tiny.tokenizer())
    with torch.no_grad():
        changed.parts.blocks[1].whole.mlp.up_proj.weight[0, 0] += 1e-3
    asked = {"workers": 1, "cpus_per_worker": SHARE}
    with (
        pytest.raises(ModelError, match=r"(?s)worker 1 \(.*\) read other weights.*send_weights"),
        ray_workers(changed, **asked),
    ):
        pass
    some = cells(changed)[:6]
    locally = sweep(changed, TOKENS, metric, some)
    edited = replace(changed, edits="one weight")
    with ray_workers(edited, **asked, send_weights=True):
        assert equal(locally, sweep(edited, TOKENS, metric, some))


@pytest.mark.usefixtures("pool")
def test_a_folder_that_a_worker_cannot_read_is_told(model, monkeypatch):
    monkeypatch.setattr(model.hf.config, "name_or_path", "/nowhere/model")
    with (
        pytest.raises(ModelError, match=r"(?s)worker 1 \(.*/nowhere/model has to be readable on every node"),
        ray_workers(model, workers=1, cpus_per_worker=SHARE),
    ):
        pass


@pytest.mark.usefixtures("pool")
def test_sweeps_of_another_model_stay_here(metric):
    other = small_models.model("gemma")
    some = cells(other)[:6]
    with executed_by(other, Worker(other)):
        assert equal(sweep(other, TOKENS, metric, some), sweep(other, TOKENS, metric, some))
