"""Installed packages against the versions that this one asks for, from its own metadata."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Final

from circuits.command.doctor.check import Check

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME: Final = "circuit-patching"
FOR: Final = {
    "dev": "work on the package: tests, types, style",
    "docs": "building the documentation",
    "images": "still images of figures (PNG, SVG)",
    "judge": "completions scored by an OpenAI-compatible endpoint (--judge)",
    "lm-eval": "capability benchmarks (--tasks)",
    "ray": "sweeps on several GPUs or machines",
}
"""What each extra is for."""


def version() -> str:
    """The installed version of this package."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "(not installed as a package)"


def checks() -> Iterator[Check]:
    """Python, what is needed, and each extra."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        about = metadata.metadata(NAME)
    except metadata.PackageNotFoundError:
        yield Check(
            "packages", "failed", f"{NAME} is not installed, so that nothing says which versions it needs",
            "in its source folder: python -m pip install -e . -c constraints.txt",
        )  # fmt: skip
        return
    python, asked = platform.python_version(), about["Requires-Python"] or ""
    fits = SpecifierSet(asked).contains(python, prereleases=True)
    yield Check(
        "python", "ok" if fits else "failed", f"{python}; {asked or 'any'} is asked for",
        "" if fits else f"make an environment with Python {asked}", {"version": python, "asked": asked},
    )  # fmt: skip
    requirements = [Requirement(line) for line in metadata.requires(NAME) or ()]
    yield needed([r for r in requirements if _wanted(r, "")])
    for extra in sorted(about.get_all("Provides-Extra") or ()):
        yield of_extra(extra, [r for r in requirements if _wanted(r, extra) and not _wanted(r, "")])


def _wanted(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def needed(requirements: Iterable[Requirement]) -> Check:
    """What cannot be missing."""
    found, wrong = _compared(requirements)
    shown = ", ".join(f"{name} {there}" for name, there in found.items())
    if not wrong:
        return Check("packages", "ok", shown, details=found)
    said = "; ".join(_said(requirement, found) for requirement in wrong)
    return Check("packages", "failed", said, _install(wrong), found)


def of_extra(extra: str, requirements: Iterable[Requirement]) -> Check:
    """What is needed for one purpose alone."""
    found, wrong = _compared(requirements)
    purpose = FOR.get(extra, "")
    if not wrong:
        return Check(f"[{extra}]", "ok", purpose, details=found)
    said = "; ".join(_said(requirement, found) for requirement in wrong)
    return Check(f"[{extra}]", "note", f"{said}; it is for {purpose}", _install(wrong), found)


def _compared(requirements: Iterable[Requirement]) -> tuple[dict[str, str | None], list[Requirement]]:
    """Installed version of each (None: not installed), and those that are missing or of a version not allowed."""
    found: dict[str, str | None] = {}
    wrong: list[Requirement] = []
    for requirement in requirements:
        try:
            there = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            there = None
        found[requirement.name] = there
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            wrong.append(requirement)
    return found, wrong


def _said(requirement: Requirement, found: dict[str, str | None]) -> str:
    there = found[requirement.name]
    if there is None:
        return f"{requirement.name} is not installed"
    return f"{requirement.name} is {there}, {requirement.specifier} is asked for"


def _install(wrong: Iterable[Requirement]) -> str:
    asked = sorted({f"'{r.name}{r.specifier}'" for r in wrong})
    return f"python -m pip install {' '.join(asked)}"
