"""What the four studies promise alike: a page that says what it is of, findings told apart, and a folder of its own."""

from __future__ import annotations

import re
from importlib import import_module

import case_runs as runs
import pytest
from case_runs import STUDIES, Run, case, few, no_forward

from circuits.case import main
from circuits.case.study import Study
from circuits.errors import CircuitError

__all__ = ["no_forward"]
BRAND = {"gemma2_replication": "Gemma"}
UNDEFINED = re.compile(r"\b(nan|NaN|None|inf|undefined)\b")


@pytest.fixture(params=STUDIES)
def done(request: pytest.FixtureRequest) -> Run:
    return runs.finished(request.param)


# --- what a finished case leaves --------------------------------------------------------------------------------------------


def test_the_page_says_what_the_model_is_not(done: Run):
    brand = BRAND.get(done.name, "Qwen")
    for place in (done.manifest["model"], done.manifest["made"]["model"], done.stdout.splitlines()[0]):
        assert f"not {brand}" in place
    assert f"architecture and is not {brand}." in done.page
    assert done.manifest["command"].startswith(f"python -m circuits.cases.{done.name} --")
    assert done.stdout.splitlines()[-1] == f"report    {done.out.relative_to(done.given) / 'index.html'}"


def test_hypotheses_are_told_apart_and_lead_somewhere(done: Run):
    verdicts = done.manifest["verdicts"]
    names = [v["hypothesis"] for v in verdicts]
    assert len(names) == len(set(names)) >= 2
    for v in verdicts:
        assert v["figure"] in done.sections
        assert v["verdict"] in ("supported", "contradicted", "undecided")
        assert v["rule"] or v["verdict"] == "undecided"


def test_nothing_undefined_is_printed_as_a_number(done: Run):
    said = {f"claim of {name}": done.claim(name) for name in done.sections}
    said |= {v["hypothesis"]: f"{v['numbers']} {v['rule']}" for v in done.manifest["verdicts"]}
    found = {where: text for where, text in said.items() if UNDEFINED.search(text)}
    assert not found
    assert all(text.rstrip().endswith(".") for name, text in said.items() if name.startswith("claim"))


def test_figures_are_named_after_their_section(done: Run):
    drawn = {stem: section for section in done.sections for stem in done.stems(section)}
    assert len(drawn) >= 5
    assert not [stem for stem, section in drawn.items() if not stem.startswith(section)]
    assert {f.stem for f in (done.out / "figures").glob("*.html")} == set(drawn)


def test_published_findings_stand_beside_what_they_are_about(done: Run):
    """Every finding is on the page, but for those of sections that were left out."""
    published = import_module(f"circuits.cases.{done.name}.published").PUBLISHED
    shown = {section: done.published(section) for section in done.sections}
    for name, finding in published.items():
        own = [text for section, text in shown.items() if section == name or section.startswith(f"{name}-")]
        assert not own or finding in own, name
    assert len({text for text in shown.values() if text}) >= 4
    assert not [text for text in shown.values() if text and text not in published.values()]


def test_results_are_kept_as_frames_and_tensors(done: Run):
    frames, tensors = ({f.stem for f in (done.out / "data").glob(f"*.{kind}")} for kind in ("csv", "safetensors"))
    assert frames == tensors
    assert len(frames) >= 5
    assert all(f.stat().st_size > 0 for f in (done.out / "data").iterdir())
    steps = {line.split()[0] for line in done.stdout.splitlines() if re.match(r"\d+/\d+ ", line)}
    assert len(steps) == int(max(steps, key=len).split("/")[1]), "as many steps as were announced"


def test_completions_are_on_the_page(done: Run):
    assert len(done.completions) >= 6
    assert {refused for _, _, refused, _ in done.completions} == {True, False}
    assert len({setting for _, setting, *_ in done.completions}) >= 2


class StoppedError(CircuitError):
    """Everything before the first measurement is done."""


@pytest.mark.parametrize("name", STUDIES)
def test_the_same_inputs_go_to_the_same_folder(
    name: str, monkeypatch: pytest.MonkeyPatch, no_forward: list[int], capsys: pytest.CaptureFixture[str]
):
    done, seen = runs.finished(name), []

    def stop(study: Study) -> Study:
        seen.append(study.out.name)
        raise StoppedError("enough")

    monkeypatch.setattr(Study, "__enter__", stop)
    monkeypatch.chdir(done.given)
    words = few(name, done.given)
    assert main(case(name), words) == 0  # complete: opened, not computed
    said = capsys.readouterr().out
    assert "nothing changed since" in said
    assert done.out.name in said
    assert not seen
    for more in (["--seed", "1"], ["--max-new-tokens", "7"], ["--figures", "elsewhere"]):
        assert main(case(name), [*words, *more]) == 2
    assert seen[2] == done.out.name
    assert len(set(seen)) == 3
    assert "enough" in capsys.readouterr().err
    assert not no_forward
