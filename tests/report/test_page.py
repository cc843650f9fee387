"""The page, read back by a parser: order, escaping, no request to anywhere."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from circuits.report import Report, write


class Reader(HTMLParser):
    """What a browser would see: tags with their attributes, text outside scripts, and the embedded data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.data: dict[str, str] = {}
        self._inside: list[str] = []
        self._script = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        if tag in ("script", "style"):
            self._inside.append(tag)
            self._script = found.get("id", "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data
        elif self._script:
            self.data[self._script] = self.data.get(self._script, "") + data

    def having(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def folder(report: Report, tmp_path: Path) -> Path:
    return write(report, tmp_path / "out", images="never").parent


@pytest.fixture
def page(folder: Path) -> Reader:
    return Reader(folder / "index.html")


def test_sections_stand_in_the_order_of_the_argument(page: Reader) -> None:
    assert [s["id"] for s in page.having("section")] == ["verdicts", "second", "first", "completions", "made"]
    assert page.text.index("What was found") < page.text.index("Contents") < page.text.index("A claim.")


def test_every_link_leads_somewhere(page: Reader, folder: Path) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for link in page.having("a"):
        target = link["href"]
        assert target[1:] in ids if target.startswith("#") else (folder / target).is_file(), target


def test_hostile_text_is_shown_and_never_run(page: Reader, hostile: str) -> None:
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert not any(attributes.get("src") == "x" for _, attributes in page.tags)
    assert page.text.count(hostile) > 10
    assert "{{ 7*7 }}" in hostile  # so a template inside text stayed text
    ran = [s for s in page.having("script") if s.get("type") != "application/json"]
    assert [s.get("src") for s in ran] == ["plotly.min.js", None]


def test_embedded_data_is_the_figure(page: Reader, report: Report) -> None:
    for section in report.sections:
        for name, figure in section.figures.items():
            assert json.loads(page.data[f"plot-{name}-data"]) == json.loads(figure.to_json())
    assert set(json.loads(page.data["themes"])) == {"light", "dark"}


def test_nothing_is_fetched_from_anywhere(folder: Path) -> None:
    for path in (folder / "index.html", folder / "figures" / "heat.html"):
        page = Reader(path)
        for tag, attributes in page.tags:
            for key in ("src", "href", "srcset", "poster", "data", "action"):
                assert "//" not in attributes.get(key, ""), (path, tag, attributes)
        style = path.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
        assert "url(" not in style
        assert "@import" not in style
        assert "http" not in style
        policy = next(m["content"] for m in page.having("meta") if "http-equiv" in m)
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy
    assert [p.relative_to(folder).as_posix() for p in folder.rglob("*.js")] == ["plotly.min.js"]
    script = (folder / "index.html").read_text(encoding="utf-8")
    assert "showSendToCloud: false" in script  # plotly's upload button


def test_tables_have_headers_that_say_what_they_head(page: Reader) -> None:
    assert page.having("th")
    assert all(th.get("scope") in ("col", "row") for th in page.having("th"))


def test_undefined_numbers_are_dashes_with_a_note(page: Reader) -> None:
    assert "–" in page.text
    assert "A dash (–) is an undefined number: 1 in the whole table" in page.text
    assert "all 80 rows; the first 60 are below" in page.text
    assert "nan" not in page.text.split("Completions")[0].replace("nant", "")


def test_csv_is_the_frame(folder: Path, table: pd.DataFrame) -> None:
    found = pd.read_csv(folder / "tables" / "second.csv")
    pd.testing.assert_frame_equal(found, table)
    assert sorted(p.name for p in (folder / "tables").iterdir()) == ["second.csv"]


def test_published_numbers_are_marked_as_a_reference(page: Reader) -> None:
    marked = [attributes for attributes in page.having("aside") if attributes.get("class") == "published"]
    assert len(marked) == 2
    assert page.text.count("a reference, not a result of this run") == 2


def test_completions_are_counted_marked_and_folded(page: Reader) -> None:
    assert page.text.count("6 of 6") == 2
    assert page.text.count("0 of 6") == 2
    assert page.text.count("✕ refused") == 12
    assert page.text.count("2 more prompts") == 2
    assert "(nothing)" in page.text
    assert "… show all" in page.text
