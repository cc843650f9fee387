"""What is said of files for the workers is said of files that are there, and holds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import balance
from balance import SECONDS, TOGETHER, LongestFirst, seconds, unit
from xdist.remote import Producer


def test_every_name_is_that_of_a_file_or_a_family(root: Path):
    families = set(TOGETHER.values())
    assert not [name for name in {*TOGETHER, *SECONDS} - families if not (root / "tests" / name).exists()]
    assert families <= set(SECONDS), "a family is long, or it would not be one"


def test_a_family_is_one_unit_and_any_other_file_its_own():
    first, second = (f"tests/cases/test_upstream{end}.py::test_x[a::b]" for end in ("", "_edges"))
    assert unit(first) == unit(second) == "upstream"
    assert unit("tests/cases/test_rules.py::test_x") == "cases/test_rules.py"
    assert seconds(first) == SECONDS["upstream"]
    assert seconds("tests/cases/test_rules.py::test_x") == 0


def test_a_folder_stands_for_its_files(monkeypatch):
    monkeypatch.setitem(balance.SECONDS, "cases", 7)
    assert seconds("tests/cases/test_rules.py::test_x") == 7
    assert seconds("tests/cases/test_repair.py::test_x") == SECONDS["cases/test_repair.py"]
    assert seconds("tests/test_sites.py::test_x") == 0


def test_workers_are_given_units_in_the_order_of_the_tests():
    """Two families among files; every worker gets two units at the start, and the next when it has done one."""

    class Node:
        def __init__(self) -> None:
            self.given: list[list[int]] = []
            self.gateway, self.shutting_down = SimpleNamespace(id="gw"), False

        def send_runtest_some(self, which: list[int]) -> None:
            self.given.append(which)

        def shutdown(self) -> None:
            self.shutting_down = True

    config = SimpleNamespace(
        option=SimpleNamespace(loadscopereorder=True), getvalue=lambda _: ["popen"] * 2, getoption=lambda _: []
    )
    names = ["cases/test_studies.py", "test_a.py", "cases/test_incapability.py", "test_b.py", "test_b.py", "test_c.py"]
    tests = [f"tests/{name}::test_{i}" for i, name in enumerate(names)]
    schedule, nodes = LongestFirst(config, Producer("test", enabled=False)), [Node(), Node()]
    for node in nodes:
        schedule.add_node(node)
        schedule.add_node_collection(node, tests)
    schedule.schedule()
    assert [node.given for node in nodes] == [[[0, 2], [3, 4]], [[1], [5]]]
