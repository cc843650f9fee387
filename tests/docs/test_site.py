"""The site is built strictly, asks nothing of a network, has no dead link, and documents every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args
from urllib.parse import unquote, urlsplit

import pytest

import circuits as ct
from circuits import _MODULE, sites
from circuits.report.contents import Ruling

ROOT = Path(__file__).resolve().parents[2]
ASSETS = {
    "img": "src",
    "script": "src",
    "link": "href",
    "source": "src",
    "iframe": "src",
    "video": "src",
    "object": "data",
}
"""Tag -> the attribute that a browser fetches without being asked."""


class Page(HTMLParser):
    """What a page fetches, what it links to, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if (wanted := given.get(ASSETS.get(tag, ""))) and given.get("rel") not in {"canonical", "next", "prev"}:
            self.fetched.append(wanted)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it, elsewhere."""
    out = tmp_path_factory.mktemp("docs") / "site"
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "WARNING" not in ran.stderr
    return out


@cache
def parsed(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def targets(site: Path) -> Iterator[tuple[Path, str, Path, str]]:
    """Page, link, file and anchor of everything that pages link to or fetch from the site."""
    for path, page in parsed(site).items():
        for link in (*page.links, *page.fetched):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            home = site if parts.path.startswith("/") else path.parent
            file = (home / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            yield path, link, file / "index.html" if file.is_dir() else file, unquote(parts.fragment)


def test_pages_fetch_nothing_from_outside(site: Path):
    outside = {
        f"{path.name}: {url}"
        for path, page in parsed(site).items()
        for url in page.fetched
        if urlsplit(url).netloc or urlsplit(url).scheme not in {"", "data"}
    }
    assert not outside
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        fetched = re.findall(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^'")\s]+)""", text)
        assert not fetched, sheet.name
    for picture in site.rglob("*.svg"):
        assert not re.search(r"""(?:href|src)=["']https?:""", picture.read_text(encoding="utf-8")), picture.name


def test_links_and_anchors_lead_somewhere(site: Path):
    pages = parsed(site)
    lost = [
        f"{path.relative_to(site)}: {link}"
        for path, link, file, anchor in targets(site)
        if path.name != "404.html"
        and (not file.is_file() or (anchor and file in pages and anchor not in pages[file].anchors))
    ]
    assert not lost, "\n".join(lost[:40])


def test_every_public_name_is_documented(site: Path):
    anchors = {anchor for path in (site / "reference").glob("*.html") for anchor in parsed(site)[path].anchors}
    missing = [
        name for name in ct.__all__ if not {f"{_MODULE[name]}.{name}", f"{_MODULE[name]}.{name}.{name}"} & anchors
    ]
    assert not missing
    index = (site / "reference" / "index.html").read_text(encoding="utf-8")
    assert not [name for name in ct.__all__ if f">{name}<" not in index]


def test_every_room_has_a_page(site: Path):
    homes = [path for path in (ROOT / "circuits").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    rooms = {path.stem for path in homes if not path.stem.startswith("_")}
    assert {path.stem for path in (site / "reference").glob("*.html")} - {"index"} == rooms


def test_studies_show_their_pictures(site: Path):
    """Every picture in figures/ is on the page of its study."""
    shown = {
        url for path in (site / "studies").glob("*.html") for url in parsed(site)[path].fetched if "/figures/" in url
    }
    assert {Path(url).name for url in shown} == {path.name for path in (ROOT / "figures").glob("*/*.png")}


def test_search_knows_the_glossary(site: Path):
    """As a script, which a page may read from disk."""
    assert "glossary.html#circuits" in (site / "search" / "search_index.js").read_text(encoding="utf-8")


def test_the_glossary_has_the_words_of_the_code(site: Path):
    """Sites, interventions and rulings by name; each term can be linked to, once."""
    page = (site / "glossary.html").read_text(encoding="utf-8")
    words = set(re.findall(r"[\w-]+", re.sub(r"<[^>]+>", " ", page).lower()))
    asked = {*sites.HOOK_NAMES, "patch", "ablation", "add", "clamp", "rotate", "aim", *get_args(Ruling)}
    assert not asked - words
    anchors = re.findall(r'<dt id="([^"]+)"', page)
    assert len(anchors) == len(set(anchors)) == page.count("<dt")
    assert {
        "denoise",
        "direct-head",
        "fraction",
        "certificate",
        "pullback",
        "ov",
        "self-repair",
        "cpr",
        "max-t",
    } <= set(anchors)
