"""What a check found: fine, worth knowing, or failed with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

Status = Literal["ok", "note", "failed"]


@final
@dataclass(frozen=True)
class Check:
    """`found` is one line; `remedy` says what to do where `status` is not ok; `details` are for --json."""

    name: str
    status: Status
    found: str
    remedy: str = ""
    details: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def text(self) -> str:
        """A line, and below it what to do."""
        line = f"{self.status:<8}{self.name:<14}{self.found}\n"
        return line + "".join(f"{'':<22}{part}\n" for part in self.remedy.splitlines())
