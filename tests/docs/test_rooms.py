"""The picture of the architecture is what the code is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rooms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "site" / "rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_drawn_from_this_code(rooms: ModuleType):
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw(), "make rooms"


def test_it_shows_every_room_once(rooms: ModuleType):
    homes = [path for path in (ROOT / "circuits").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    shown = re.findall(r">([\w]+)</text>", rooms.draw())
    assert sorted(shown) == sorted(path.stem for path in homes if path.stem != "__init__")


def test_arrows_are_imports_and_point_down(rooms: ModuleType):
    imports = rooms.imports()
    level = {room: i for i, row in enumerate(rooms.order()) for room in row}
    assert ("cases", "case") in imports.edges
    assert ("engine", "interventions") in imports.edges
    assert all(level[user] > level[used] for user, used in imports.edges)


def test_an_import_more_is_another_picture(rooms: ModuleType, monkeypatch: pytest.MonkeyPatch):
    before, graph = rooms.draw(), rooms.imports().copy()
    graph.add_edge("selection", "axes")
    monkeypatch.setattr(rooms, "imports", lambda: graph)
    assert rooms.draw() != before


def test_the_page_says_what_every_room_is_for():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    homes = [path for path in (ROOT / "circuits").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    told = set(re.findall(r"\]\(reference/(\w+)\.md\)", page))
    assert {path.stem for path in homes if not path.stem.startswith("_")} == told
