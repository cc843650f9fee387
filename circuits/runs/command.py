"""`circuits runs`: list, show, diff, redraw, export."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from circuits.errors import CircuitError

_DESCRIPTION = "Runs on disk: what each was made from, what it found, drawn again or handed on."


def parser() -> argparse.ArgumentParser:
    """The arguments of `circuits runs`."""
    made = argparse.ArgumentParser(prog="circuits runs", description=_DESCRIPTION)
    fill(made)
    return made


def fill(made: argparse.ArgumentParser) -> None:
    """Give a parser the verbs of `runs`."""
    verbs = made.add_subparsers(dest="verb", required=True, metavar="list|show|diff|redraw|export")

    def verb(name: str, text: str, *runs: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        for run in runs:
            sub.add_argument(run, help="a run's id, the beginning or end of one, or its folder")
        sub.add_argument("--root", default="runs", help="where runs are (default: runs)")
        return sub

    verb("list", "every run, the oldest first").add_argument("--json", action="store_true", help="as JSON")
    verb("show", "what a run was made from, and its tries", "run").add_argument("--json", action="store_true", help="as JSON")
    verb("diff", "inputs, verdicts and numbers that differ between two runs", "run", "other")
    verb("redraw", "write a run's report again as this version draws it, without a model", "run").add_argument(
        "--no-images", action="store_true", help="leave out the still images"
    )
    verb("export", "a run as a zip file, without its blocks", "run").add_argument(
        "--to", default=None, metavar="FILE.zip", help="default: <id>.zip here"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    return do(parser().parse_args(argv))


def do(args: argparse.Namespace) -> int:
    """What the arguments ask for. 0: done; 1: `diff` found numbers that differ; 2: it cannot be done."""
    try:
        return _VERBS[args.verb](args)
    except CircuitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _list(args: argparse.Namespace) -> int:
    from circuits.runs.found import runs_below
    from circuits.runs.record import size

    rows: list[tuple[str, ...]] = []
    for run in runs_below(Path(args.root)):
        record = run.record
        if record is None:
            rows.append(("?", run.id, "damaged", "", "", "", run.problem.splitlines()[0]))
            continue
        last = record.tries[-1] if record.tries else None
        seconds = sum(entry.seconds for entry in record.tries)
        begun = last.started[:16] if last is not None else ""
        rows.append((
            record.case, run.id, record.status, begun, f"{seconds:.0f} s", f"{size(run.folder) / 1e6:.1f} MB",
            record.model.get("title", ""),
        ))  # fmt: skip
    head = ("case", "id", "status", "begun", "took", "size", "model")
    if args.json:
        _say(json.dumps([dict(zip(head, row, strict=True)) for row in rows], indent=1, ensure_ascii=False))
    elif rows:
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        for row in (head, *rows):
            _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    else:
        _say(f"no runs below {args.root}; `circuits run gemma_refusal` makes one")
    return 0


def _show(args: argparse.Namespace) -> int:
    from circuits.runs.found import named

    run = named(args.run, Path(args.root))
    if run.record is None:
        raise CircuitError(run.problem)
    told = {"folder": str(run.folder), "status": run.record.status, **run.record.identity}
    told["configuration"] = dict(run.record.configuration)
    if args.json:
        _say(json.dumps(told | {"tries": [asdict(entry) for entry in run.record.tries]}, indent=1, ensure_ascii=False))
        return 0
    for name, value in told.items():
        if isinstance(value, dict):
            _say(name)
            for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
                _say(f"  {key!s:<18}{_short(inner)}")
        else:
            _say(f"{name:<20}{_short(value)}")
    for entry in run.record.tries:
        unfinished = "at work" if entry.alive else "did not end"
        ended = f"{entry.status} after {entry.seconds:.1f} s" if entry.ended else unfinished
        _say(f"try {entry.started}  {ended}, {entry.found} blocks found, {entry.made} computed  {entry.error}".rstrip())
        _say(f"    {entry.command}")
    return 0


def _diff(args: argparse.Namespace) -> int:
    from circuits.runs.differences import compare
    from circuits.runs.found import named

    root = Path(args.root)
    found = compare(named(args.run, root), named(args.other, root))
    for title, rows in (("inputs", found.inputs), ("verdicts", found.verdicts)):
        _say(title if rows else f"{title}: the same")
        for name, (a, b) in rows.items():
            _say(f"  {name}\n    < {_short(a)}\n    > {_short(b)}")
    if found.same:
        _say(f"numbers: the same, in all {len(found.results)} results")
        return 0
    _say("numbers: largest difference in each result")
    for result, rows, difference, note in found.results.itertuples(index=False):
        _say(f"  {result:<32}{rows:>8} rows  {note or f'{difference:.3g}'}")
    return 1


def _redraw(args: argparse.Namespace) -> int:
    from circuits.report.folder import redraw
    from circuits.runs.found import named

    index = redraw(named(args.run, Path(args.root)).folder, images="never" if args.no_images else "auto")
    _say(f"report    {index}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from circuits.runs.exported import export_run
    from circuits.runs.found import named

    run = named(args.run, Path(args.root))
    target, count = export_run(run, Path(args.to or f"{run.id}.zip"))
    _say(f"wrote     {target} ({count} files, {target.stat().st_size / 1e6:.1f} MB)")
    return 0


_VERBS = {"list": _list, "show": _show, "diff": _diff, "redraw": _redraw, "export": _export}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}…"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
