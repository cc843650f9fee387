"""Different questions have different names, equal ones the same in any process: contents decide, nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny
import torch

from circuits.engine import generate, sweep
from circuits.engine.identify import contents, digest
from circuits.engine.kept import keep
from circuits.errors import CircuitError
from circuits.interventions import Patch
from circuits.metrics import BoundMetric, LogitDifference, Metric
from circuits.model import Model, load
from circuits.model.identity import tokenizer_hash, weights_hash
from circuits.sites import Site, head


@dataclass(frozen=True)
class _Held:
    number: float
    parts: tuple[Any, ...] = ()


class _Scaled(Metric):
    """Somebody's own metric."""

    name = "scaled"

    def __init__(self, factor: float, rule: Callable[[float], float]) -> None:
        self.factor, self.rule = factor, rule

    def bind(self, pairs: Any) -> BoundMetric:
        raise AssertionError(f"bound to {pairs}: its name alone was asked for")


def _double(x: float) -> float:
    return 2 * x


DIFFERENT: list[Any] = [
    None, 0, 0.0, False, "", "0", b"0", (), [], {}, (0,), [0], ((), ()), (((),),), {"a": 0}, {"a": 1}, {"b": 0}, -0.0, 1,
    True, "1",
    torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, -0.0]), torch.zeros(0),
    _Held(0), _Held(0.0), _Held(1.0), _Held(0, (1,)), _Held(0, (_Held(1),)), range(3), slice(3),
    frozenset({1, 2}), frozenset({1}), ("ab", "c"), ("a", "bc"), _Scaled(1, _double), _Scaled(2, _double),
    _Scaled(1, lambda x: 2 * x), _Scaled(1, lambda x: 3 * x),
    partial(_double, 1), partial(_double, 2), Site("resid_pre", 1), Site("resid_pre", 2), head(1, 1),
]  # fmt: skip


def test_different_values_have_different_contents():
    seen = [contents(value) for value in DIFFERENT]
    twice = [DIFFERENT[i] for i, found in enumerate(seen) if seen.index(found) != i]
    assert not twice


def test_equal_values_have_equal_contents_whoever_shares_them():
    t = torch.arange(3.0)
    shared, apart = (t, t, _Held(1, (t,))), (t.clone(), t.clone(), _Held(1, (t.clone(),)))
    assert contents(shared) == contents(apart)
    assert contents(torch.arange(6.0).view(2, 3).T) == contents(torch.arange(6.0).view(2, 3).T.contiguous())
    assert contents({"a": 1, "b": 2}) == contents({"b": 2, "a": 1})


def test_a_cycle_ends():
    ring: list[Any] = [1]
    ring.append(ring)
    assert contents(ring) != contents([1, [1]])


def test_what_cannot_be_told_is_said():
    with pytest.raises(CircuitError, match="cannot tell what a builtins.generator holds"):
        contents(_Held(0, ((x for x in range(3)),)))
    a, b = eval("lambda x: x"), eval("lambda x: -x")  # noqa: S307  what has no source
    assert contents(_Scaled(1, a)) != contents(_Scaled(1, b))


def test_a_closure_counts():
    def scaled(by: float) -> Callable[[float], float]:
        return lambda x: by * x

    assert contents(scaled(2.0)) == contents(scaled(2.0)) != contents(scaled(3.0))


_ELSEWHERE = """
import sys
sys.path[:0] = {path!r}
import small_models
from circuits.engine.identify import digest
from circuits.metrics import LogitDifference
from circuits.sites import Site, head
import torch
held = {{Site("q", 1): torch.ones(2), head(1, 2): 3}}
print(digest(LogitDifference, frozenset({{"a", "b", "c"}}), held, small_models.uneven()))
"""


def test_another_process_gives_the_same_name():
    """Whatever seed Python hashes strings with."""
    here = digest(
        LogitDifference, frozenset({"a", "b", "c"}), {Site("q", 1): torch.ones(2), head(1, 2): 3}, small_models.uneven()
    )
    root = Path(__file__).resolve().parents[2]
    program = _ELSEWHERE.format(path=[str(root), str(root / "tests")])
    around = {**os.environ, "PYTHONHASHSEED": "12", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = subprocess.run([sys.executable, "-c", program], env=around, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == here


# --- what changes a number is asked anew --------------------------------------------------------------------------------


def _weights(model: Model) -> None:
    dict(model.hf.named_parameters())["model.layers.2.mlp.down_proj.weight"].data.mul_(1.5)


def _buffer(model: Model) -> None:
    buffers = dict(model.hf.named_buffers())
    buffers[next(name for name in buffers if name.endswith("rotary_emb.inv_freq"))].mul_(0.5)


def _scale(model: Model) -> None:
    model.hf.model.layers[2].self_attn.scaling *= 2


def _hook(model: Model) -> None:
    model.hf.model.layers[2].mlp.register_forward_hook(lambda _module, _inputs, output: 1.5 * output)


@pytest.mark.parametrize("change", [_weights, _buffer, _scale, _hook])
def test_a_model_changed_in_memory_is_another(tmp_path, change):
    """Also in ways of which torch keeps no count."""
    model = load(str(small_models.folder("gemma")), device="cpu", tokenizer=tiny.tokenizer())
    tokens, cells = small_models.uneven(), [(Patch(Site("resid_pre", 1), "last"),)]
    metric, before = LogitDifference(model, "w50", "w51"), weights_hash(model)
    with keep(tmp_path) as kept:
        first = sweep(model, tokens, metric, cells)
        change(model)
        second = sweep(model, tokens, metric, cells)
    assert weights_hash(model) != before
    assert kept.found == 0
    assert not torch.equal(first.value, second.value)


def test_replies_end_where_the_model_ends_them_now(tmp_path):
    model = load(str(small_models.folder("gemma")), device="cpu", tokenizer=tiny.tokenizer())
    tokens = small_models.uneven()
    with keep(tmp_path):
        whole = generate(model, tokens, max_new_tokens=6)
        model.hf.generation_config.eos_token_id = model.tokenizer(whole[0], add_special_tokens=False).input_ids[1]
        cut = generate(model, tokens, max_new_tokens=6)
    assert len(cut[0]) < len(whole[0])


def test_how_torch_computes_counts():
    before = digest()
    torch.set_float32_matmul_precision("medium")
    try:
        assert digest() != before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert digest() == before


def test_a_tokenizer_forgets_how_its_last_call_was_padded():
    used, fresh = tiny.tokenizer(), tiny.tokenizer()
    used(["w1", "w2 w3"], padding=True)
    assert tokenizer_hash(used) == tokenizer_hash(fresh)


_MINE = """
import torch
from circuits.metrics import BoundMetric, Metric
SCALE = {scale}
def scaled(x):
    return SCALE * x
class Bound(BoundMetric):
    def __call__(self, logits):
        return scaled(logits[..., {token}].float())
class Mine(Metric):
    name = "mine"
    def bind(self, pairs):
        return Bound()
"""


def _own(scale: float, token: int) -> Metric:
    """A metric of a notebook: no file holds it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(_MINE.format(scale=scale, token=token), names)  # noqa: S102  as a notebook does
    return names["Mine"]()


@pytest.mark.parametrize(("scale", "token"), [(1.0, 4), (5.0, 3)])
def test_another_formula_is_another_metric(tmp_path, scale, token):
    """Wherever it stands: in what the metric binds to, or in a number or function beside it."""
    model, tokens = small_models.model("gemma"), small_models.uneven()
    cells = [(Patch(Site("resid_pre", 1), "last"),)]
    with keep(tmp_path) as kept:
        first = sweep(model, tokens, _own(1.0, 3), cells)
        again = sweep(model, tokens, _own(1.0, 3), cells)
        assert kept.found == 2
        other = sweep(model, tokens, _own(scale, token), cells)
    assert kept.found == 2
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.value, other.value)
