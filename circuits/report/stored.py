"""A report as one JSON file, and back: what is drawn again needs neither the model nor what was measured.

Figures are plotly's own JSON, tables keep the kind of every column. Nothing in the file is run when it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from circuits.errors import CircuitError
from circuits.report.contents import Completion, Report, Section, Verdict

VERSION: Final = 1
_PARTS: Final[Mapping[str, type]] = {"verdicts": Verdict, "sections": Section, "completions": Completion}


def to_json(report: Report) -> str:
    """The whole report."""
    told: dict[str, Any] = {"format": VERSION}
    for f in fields(report):
        value = getattr(report, f.name)
        if f.name in _PARTS:
            told[f.name] = [_part(item) for item in value]
        else:
            told[f.name] = _plain(value)
    return json.dumps(told, ensure_ascii=False)


def from_json(text: str, name: str) -> Report:
    """Read what `to_json` wrote. Raises CircuitError, naming the file, for anything else."""
    try:
        told: Any = json.loads(text)
        if told.pop("format") != VERSION:
            raise CircuitError(f"{name} was written by another version; run the case again (its blocks are kept)")
        parts = {key: tuple(_made(kind, item) for item in told.pop(key)) for key, kind in _PARTS.items()}
        steps = _frame(told.pop("steps"))
        report = Report(**told, **parts, steps=steps)  # pyright: ignore[reportArgumentType]  checked by its own fields
        report.check()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CircuitError(f"{name} is no stored report: {said}") from error
    return report


def _part(item: Any) -> dict[str, Any]:
    return {f.name: _plain(getattr(item, f.name)) for f in fields(item)}


def _plain(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        columns = [[_cell(x) for x in value[name].tolist()] for name in value.columns]
        return {"columns": [str(c) for c in value.columns], "kinds": [str(t) for t in value.dtypes], "values": columns}
    if isinstance(value, go.Figure):
        return json.loads(str(value.to_json()))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _cell(x: Any) -> Any:
    """A table's cell; what is missing or infinite goes as text, which JSON has no number for."""
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float) and not math.isfinite(x):
        return {"number": repr(x)}
    if x is pd.NaT or x is pd.NA:
        return {"number": "nan"}
    return x if isinstance(x, str | int | float | bool | None) else str(x)


def _made(kind: type, told: dict[str, Any]) -> Any:
    if kind is Section:
        told = dict(told)
        told["figures"] = {name: go.Figure(figure) for name, figure in told["figures"].items()}
        told["table"] = _frame(told["table"])
    return kind(**told)


def _frame(told: dict[str, Any] | None) -> pd.DataFrame | None:
    if told is None:
        return None
    columns = {
        name: pd.Series([_number(x) for x in values], dtype=kind)
        for name, kind, values in zip(told["columns"], told["kinds"], told["values"], strict=True)
    }
    return pd.DataFrame(columns, columns=told["columns"])


def _number(x: Any) -> Any:
    return float(x["number"]) if isinstance(x, dict) else x  # pyright: ignore[reportUnknownArgumentType]
