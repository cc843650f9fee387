"""The XML that GraphML and GEXF share: typed columns, values as text, and reading that expands nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from xml.etree import ElementTree as ET

from circuits.errors import CircuitError
from circuits.graph.scalars import Scalar, called, shorten

TYPES: Final[dict[type, str]] = {bool: "boolean", int: "long", float: "double", str: "string"}
"""A Python type -> the name that both formats have for it."""
_KNOWN: Final = {
    "boolean": "boolean", "int": "long", "integer": "long", "long": "long", "float": "double", "double": "double",
    "string": "string",
}  # fmt: skip
_WHOLE: Final = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TRUTH: Final = {"true": True, "false": False, "1": True, "0": False}

Columns = dict[tuple[str, str], str]
"""(attribute, type) -> the column's id in the file; an attribute of two types has two columns of one name."""


def columns(owners: Iterable[Mapping[str, Scalar]], prefix: str = "", start: int = 0) -> Columns:
    """A column per attribute and type, in the order in which they are met; ids are `prefix` and numbers from `start`."""
    found: Columns = {}
    for values in owners:
        for name, value in values.items():
            found.setdefault((name, TYPES[type(value)]), f"{prefix}{start + len(found)}")
    return found


def spelled(value: Scalar) -> str:
    """`value` as XML spells it; a float so that it reads back exactly."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def value(text: str, kind: str, where: str) -> Scalar:
    """What `text` of a column of type `kind` says. Raises CircuitError where it says nothing of that type."""
    if kind == "string":
        return text
    bare = text.strip()
    if kind == "boolean" and bare.lower() in _TRUTH:
        return _TRUTH[bare.lower()]
    if kind == "long" and _WHOLE.fullmatch(bare):
        return int(bare)
    if kind == "double" and _NUMBER.fullmatch(bare):
        return float(bare)
    raise CircuitError(f"{where} is {shorten(text)}, which is no {kind}; is the file as it was written?")


def kind_of(declared: str | None, where: str) -> str:
    """The type that a column declares, under one of its names."""
    if declared not in _KNOWN:
        raise CircuitError(f"{where} has the type {shorten(declared)}; attributes are {', '.join(TYPES.values())}")
    return _KNOWN[declared]


def render(root: ET.Element) -> str:
    """`root` as a file, indented where that changes no value."""
    _indent(root, "\n")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _indent(element: ET.Element, line: str) -> None:
    if len(element):
        element.text = line + " "
        for child in element:
            _indent(child, line + " ")
            child.tail = line + " "
        element[-1].tail = line


def parse(text: str, tag: str) -> ET.Element:
    """The root of `text`, an element `tag`. Raises CircuitError for what is no XML, cut off, or of another format."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise CircuitError("it declares a document type, which could define text that grows without end; take it out")
    try:
        root = ET.fromstring(text)  # noqa: S314  nothing expands without a document type
    except (ET.ParseError, ValueError) as error:  # ValueError: half of a surrogate pair
        raise CircuitError(f"this is no XML ({error}); is the file complete?") from None
    if root.tag != tag:
        raise CircuitError(f"it holds <{called(root.tag)}>, not <{tag}>; which format is it of?")
    return root


def only(element: ET.Element, tags: Iterable[str], where: str) -> None:
    """Raise CircuitError where `element` has a part that is not among `tags`, or text between its parts."""
    known = set(tags)
    if known and (element.text or "").strip():
        raise CircuitError(f"{where} holds the text {shorten(element.text)} before its parts; take it out")
    for child in element:
        if child.tag not in known:
            raise CircuitError(
                f"{where} holds <{called(child.tag)}>, which a component graph does not have; take it out"
            )
        if (child.tail or "").strip():
            raise CircuitError(f"{where} holds the text {shorten(child.tail)} between its parts; take it out")


def attribute(element: ET.Element, name: str, where: str) -> str:
    """The XML attribute `name`. Raises CircuitError where there is none."""
    found = element.get(name)
    if found is None:
        raise CircuitError(f"{where} has no {name}; is the file as it was written?")
    return found
