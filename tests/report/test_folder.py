"""Writing: complete, repeatable, refused before anything is drawn when it cannot work."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from circuits.errors import OutputError
from circuits.report import Report, Section, Verdict, stills, write


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_manifest_lists_what_was_written(report: Report, tmp_path: Path) -> None:
    index = write(report, tmp_path, images="never")
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert index == tmp_path / "index.html"
    assert sorted([*manifest["files"], "manifest.json"]) == files(tmp_path)
    assert manifest["made"] == dict(report.manifest)
    assert [v["verdict"] for v in manifest["verdicts"]] == ["supported", "undecided"]


def test_a_second_report_replaces_the_first_and_nothing_else(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path, images="never")
    (tmp_path / "figures" / "mine.txt").write_text("kept")
    write(replace(report, sections=report.sections[1:], verdicts=[]), tmp_path, images="never")
    assert files(tmp_path) == [
        "figures/bars.html",
        "figures/mine.txt",
        "index.html",
        "manifest.json",
        "plotly.min.js",
        "report.json",
    ]


def test_a_forged_manifest_deletes_nothing_outside(report: Report, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("kept")
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(
        json.dumps({"files": ["../victim.txt", "figures/../../victim.txt", str(victim), 3]})
    )
    write(report, out, images="never")
    assert victim.exists()


def test_a_folder_that_cannot_be_written_is_said_first(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stills.Stills, "add", lambda *_: pytest.fail("drew before checking"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write .*file.*choose another folder"):
        write(report, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("sections", "verdicts", "said"),
    [
        ([Section("../up", "t", "c")], [], "no file name"),
        ([Section("a", "t", "c"), Section("A", "t", "c")], [], "share the name a"),
        ([Section("a", "t", "c")], [Verdict("h", "supported", "1", "b")], "link to no section: b"),
    ],
)
def test_names_are_checked_before_anything(
    report: Report, tmp_path: Path, sections: list[Section], verdicts: list[Verdict], said: str
) -> None:
    with pytest.raises(OutputError, match=said):
        write(replace(report, sections=sections, verdicts=verdicts), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_a_browser_one_line_says_so(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stills, "_browser", lambda: None)
    with caplog.at_level(logging.INFO, logger="circuits.report"):
        write(report, tmp_path)
    said = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["images"]
    assert said.startswith("no still images")
    assert said in caplog.text
    assert said in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.png"))


def test_without_kaleido_one_line_says_so(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stills.importlib.util, "find_spec", lambda _: None)
    assert "pip install kaleido" in stills.draw(report.sections[0].figures, tmp_path)


def test_a_browser_that_fails_or_hangs_costs_a_line(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stills, "_missing", lambda: "")

    async def fails(_: object) -> None:
        raise RuntimeError("browser closed\nmore")

    async def hangs(_: object) -> None:
        time.sleep(2)  # noqa: ASYNC251  stuck, as a browser is

    monkeypatch.setattr(stills, "_draw_all", fails)
    assert (
        stills.draw(report.sections[0].figures, tmp_path)
        == "still images: 0 of 2; RuntimeError: browser closed"
    )
    monkeypatch.setattr(stills, "_draw_all", hangs)
    began = time.monotonic()
    assert "gave up on the browser" in stills.draw(report.sections[0].figures, tmp_path, start=0.2)
    assert time.monotonic() - began < 1.5


def test_stills_that_exist_are_linked(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def paint(_: stills.Stills, figures: dict[str, object]) -> None:
        for name in figures:
            (tmp_path / "figures" / f"{name}.svg").write_text("<svg/>")

    monkeypatch.setattr(stills.Stills, "add", paint)
    page = write(report, tmp_path).read_text(encoding="utf-8")
    assert 'href="figures/heat.svg"' in page
    assert 'class="on-paper" src="figures/heat.svg"' in page
    assert "figures/heat.png" not in page


def test_pictures_begun_before_the_report_are_its_own(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stills, "_missing", lambda: "")
    write(report, tmp_path, images="never")
    drawn: list[str] = []

    def place(path: Path) -> None:
        assert not path.exists(), "an earlier picture was left"
        path.write_text("<svg/>")
        drawn.append(path.name)

    async def paint(batches: stills.Batches) -> tuple[Exception, ...]:
        while (jobs := await stills._next(batches)) is not None:
            for job in jobs:
                place(Path(job["path"]))
        return ()

    monkeypatch.setattr(stills, "_draw_all", paint)
    (tmp_path / "figures" / "heat.png").write_text("of an earlier report")
    begun = stills.Stills(tmp_path / "figures")
    begun.add({"heat": report.sections[0].figures["heat"]})
    write(report, tmp_path, begun=begun)
    assert drawn == ["heat.png", "heat.svg", "bars.png", "bars.svg"]
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["images"] == "still images: 4 (PNG and SVG)"
    assert {"figures/heat.svg", "figures/bars.png"} <= set(manifest["files"])


def test_drawing_that_is_left_ends(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stills, "_missing", lambda: "")

    async def reads(batches: stills.Batches) -> tuple[Exception, ...]:
        while await stills._next(batches) is not None:
            pass
        return ()

    monkeypatch.setattr(stills, "_draw_all", reads)
    begun = stills.Stills(tmp_path)

    def fail() -> None:
        with begun:
            begun.add(report.sections[0].figures)
            raise OutputError("something else")

    with pytest.raises(OutputError, match="something else"):
        fail()
    assert begun._worker is not None
    begun._worker.join(5)
    assert not begun._worker.is_alive()


@pytest.mark.skipif(bool(stills._missing()), reason="no browser to draw with")
def test_a_real_browser_draws_both_formats(report: Report, tmp_path: Path) -> None:
    assert (
        stills.draw({"heat": report.sections[0].figures["heat"]}, tmp_path) == "still images: 2 (PNG and SVG)"
    )
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
    tree = ET.parse(tmp_path / "heat.svg")  # noqa: S314  written a moment ago, by us
    assert not any(node.tag.endswith("}img") or "onerror" in node.attrib for node in tree.iter())
