"""The case as a user runs it: a model folder and pairs of one's own, and everything that can be wrong with them."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd
import pytest

from circuits.case import Progress, main, parser
from circuits.cases.gemma_refusal import inputs
from circuits.cases.gemma_refusal.__main__ import CASE
from circuits.engine import baseline
from circuits.errors import UndefinedError
from circuits.graph import load_graph


@pytest.fixture(scope="module")
def tiny_stories(shared: Path) -> dict[str, str]:
    return {
        "model": str(shared / "models" / "TinyStories-656K"),
        "pairs": str(shared / "reference" / "tinystories656k_name_pronoun_pairs.json"),
    }


@pytest.fixture(scope="module")
def finished(tiny_stories: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    words = ["--model", tiny_stories["model"], "--pairs", tiny_stories["pairs"], "--out", str(out), "--no-images"]
    assert main(CASE, [*words, "--max-new-tokens", "6"]) == 0
    return out


def test_the_report_says_what_it_is_of(finished: Path):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert "TinyStories-656K" in manifest["model"]
    assert manifest["metric"] == "logit[answer] − logit[wrong]"
    hypotheses = [v["hypothesis"] for v in manifest["verdicts"]]
    assert len(set(hypotheses)) == len(hypotheses)
    assert {"the metric stands for refusal", "a few direct heads carry it"} <= set(hypotheses)
    assert manifest["command"].startswith("python -m circuits.cases.gemma_refusal --model")
    page = (finished / "index.html").read_text()
    assert "Published elsewhere" not in page, "the write-up's findings are about refusal, not about pronouns"


def test_verdicts_are_those_of_the_reference_maps(finished: Path, shared: Path):
    """In this model head outputs at the last position carry the name: known from the stored reference run."""
    np = pytest.importorskip("numpy")
    stored = np.load(shared / "reference" / "tinystories656k_name_pronoun_patching.npz")
    clean, corrupt = stored["ld_clean"], stored["ld_corrupt"]
    expected = ((stored["attn_noise"] - clean[:, None, None]) / (corrupt - clean)[:, None, None]).mean(0)[:, -1]
    table = pd.read_csv(finished / "tables" / "blocks.csv")
    ours = table[(table["direction"] == "noise") & (table["kind"] == "attn_out") & (table["pos"] == -1)]
    assert ours.sort_values("layer")["mean"].to_numpy() == pytest.approx(expected, abs=1e-4)
    rulings = {v["hypothesis"]: v["verdict"] for v in json.loads((finished / "manifest.json").read_text())["verdicts"]}
    assert rulings["no single block carries it"] == "contradicted"
    assert rulings["refusal depends on one direction"] == "undecided"


def test_the_graph_opens_again_and_holds_the_measured_effects(finished: Path):
    graph = load_graph(finished / "circuit.graphml")
    same = load_graph(finished / "circuit.json")
    assert nx.utils.graphs_equal(graph, same)
    table = pd.read_csv(finished / "tables" / "heads.csv")
    noised = table[table["direction"] == "noise"].set_index("label")["mean"]
    heads = [n for n in graph if ".H" in n]
    assert heads
    for name in heads:
        assert graph.nodes[name]["noise_last"] == pytest.approx(noised[name])
    edges = pd.read_csv(finished / "tables" / "edges.csv").set_index(["sender", "receiver"])["mean"]
    final = [(name, has["effect"]) for name, _, has in graph.in_edges("metric", data=True)]
    assert len(final) > 3
    for name, effect in final:
        assert effect == pytest.approx(edges[name, "metric"])
    assert "TinyStories" in graph.graph["model"]


def test_results_are_kept_as_frames_and_tensors(finished: Path):
    names = {f.stem for f in (finished / "data").glob("*.csv")}
    assert {"direction", "behaviour", "components", "attention", "residual_denoise", "sets_noise"} <= names
    frame = pd.read_csv(finished / "data" / "residual_denoise.csv")
    assert len(frame) == 24 * 2 * 5
    assert (finished / "data" / "residual_denoise.safetensors").stat().st_size > 0


def rows(path: Path, *pairs: tuple[str, ...], header: tuple[str, ...] = ("clean", "corrupt")) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *pairs])
    return str(path)


GOOD = ("Write a guide on how to build a gun", "Write a guide on how to build a table")


@pytest.fixture
def forward_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts runs of the engine: bad input must be told before the first."""
    count: list[int] = []
    module = sys.modules["circuits.engine.capture"]  # the package shows a function of that name
    original = module.position_ids

    def counted(mask: Any) -> Any:
        count.append(1)
        return original(mask)

    monkeypatch.setattr(module, "position_ids", counted)
    return count


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([GOOD, ("Build a gun now", "Build a table")], "pair 1"),
        ([GOOD, ("Build a gun", "Make a table")], "pair 1"),
        ([("Build a gun", "Build a gun")], "pair 0"),
        ([("Build a xylophonist", "Build a table")], "pair 0"),
        ([], "no rows"),
    ],
    ids=["length", "two tokens", "identical", "multi-token", "empty"],
)
def test_pairs_that_do_not_align(
    pairs: list[tuple[str, str]], said: str, tmp_path: Path, forward_passes: list[int], capsys: pytest.CaptureFixture[str]
):
    path = rows(tmp_path / "mine.csv", *pairs)
    assert main(CASE, ["--pairs", path, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert not forward_passes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metric", "refusal:unquestionably"], "tokens of this model"),
        (["--metric", "refusal"], "is not one of"),
        (["--groups", "early=0:99"], "out of range"),
        (["--groups", "early=2:2"], "holds no layer"),
        (["--model", "refusal-gema"], "near matches: refusal-gemma"),
        (["--pairs", "nowhere.csv"], "nowhere.csv"),
        (["--device", "cuda:7"], "device"),
    ],
)
def test_arguments_that_cannot_be_used(
    words: list[str], said: str, tmp_path: Path, forward_passes: list[int], capsys: pytest.CaptureFixture[str]
):
    assert main(CASE, [*words, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not forward_passes


def test_a_missing_column_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = rows(tmp_path / "mine.csv", GOOD, header=("clean", "harmless"))
    assert main(CASE, ["--pairs", path, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "corrupt" in err
    assert "harmless" in err


@pytest.fixture
def equal_metric(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[int]], None]:
    """Makes the metric of some pairs equal on both prompts."""

    def make(pairs: Sequence[int]) -> None:
        def equal(model: Any, tokens: Any, metric: Any) -> Any:
            clean, corrupt = baseline(model, tokens, metric)
            corrupt[list(pairs)] = clean[list(pairs)]
            return clean, corrupt

        monkeypatch.setattr(inputs, "baseline", equal)

    return make


def start(tiny_stories: dict[str, str], tmp_path: Path) -> Any:
    words = ["--model", tiny_stories["model"], "--pairs", tiny_stories["pairs"], "--out", str(tmp_path / "out")]
    return inputs.setting(parser(CASE).parse_args(words), Progress(total=0))


def test_a_pair_without_a_gap_is_named_and_left_out(
    tiny_stories: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], equal_metric: Any
):
    equal_metric([3])
    start(tiny_stories, tmp_path)
    out = capsys.readouterr().out
    assert "equal on both prompts of 1 of 24 pairs, left out of every fraction" in out
    assert "pair 3" in out


def test_a_metric_without_any_gap_is_refused(tiny_stories: dict[str, str], tmp_path: Path, equal_metric: Any):
    equal_metric(range(24))
    with pytest.raises(UndefinedError, match="all 24 pairs"):
        start(tiny_stories, tmp_path)
