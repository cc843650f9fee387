"""Verdicts for a terminal: aligned, wrapped, unable to steer it."""

from __future__ import annotations

from circuits.report import Verdict, verdict_table


def test_columns_are_aligned() -> None:
    table = verdict_table(
        [Verdict("early", "supported", "0.8"), Verdict("a few heads", "contradicted", "0.2")]
    )
    assert table.splitlines() == [
        "what was found  verdict       numbers",
        "early           supported     0.8",
        "a few heads     contradicted  0.2",
    ]


def test_long_cells_wrap_in_their_column() -> None:
    lines = verdict_table([Verdict("word " * 20, "undecided", "0.5")]).splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 130 for line in lines)
    assert lines[2].startswith("word")


def test_control_characters_are_dropped() -> None:
    assert "\x1b" not in verdict_table([Verdict("a\x1b[31mred\rover", "supported", "1\x07")])
