"""Code on the pages of docs/: found as a reader sees it, run in order, in one namespace for each page.

What stands after the fence says what is done with a block. `python`: it is run, in a folder of the page's own.
`{.text .printed}`: what the block above it prints. `csv title="pairs.csv"`: a file of that name, there before the code
runs. `{.python .no-run}`: shown, not run, since it needs the hub, an endpoint or a GPU.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(?P<indent> *)```(?P<head>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w])")


@dataclass
class Block:
    """A fenced block: what stands after the fence, what stands in it, and its line in the page."""

    head: str
    body: str
    line: int

    @property
    def runs(self) -> bool:
        return self.head == "python"

    @property
    def shows(self) -> bool:
        """Whether it is Python that is not run."""
        return ".python" in self.head

    @property
    def prints(self) -> bool:
        return ".printed" in self.head

    @property
    def file(self) -> str:
        found = re.search(r'title="([^"]+)"', self.head)
        return found[1] if found else ""


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        indent = found["indent"]
        body = "\n".join(line.removeprefix(indent) for line in found["body"].splitlines())
        yield Block(found["head"].strip(), body, text.count("\n", 0, found.start()) + 1)


def pages() -> list[str]:
    """Every page with code that is run, but for those of measurements, which have a test of their own."""
    every = sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "measurements")
    return [path.relative_to(DOCS).as_posix() for path in every if any(block.runs for block in blocks(path))]


def run(page: Path, folder: Path) -> Iterator[tuple[Block, str, str]]:
    """Run a page's code with `folder` as the working folder; for every printed block: it, and what was printed."""
    every, names = list(blocks(page)), {"__name__": "page"}
    for block in every:
        if block.file:
            (folder / block.file).write_text(block.body + "\n", encoding="utf-8")
    said = ""
    with contextlib.chdir(folder):
        for block in every:
            if block.prints:
                yield block, said, block.body
            elif block.runs:
                out = io.StringIO()
                code = compile("\n" * block.line + block.body, str(page), "exec")
                with contextlib.redirect_stdout(out):
                    exec(code, names)  # noqa: S102  that is what is tested
                said = out.getvalue()


def alike(said: str, shown: str, *, within: float = 0.02) -> bool:
    """The same words, and numbers that differ by no more than `within` of 1 or of themselves, as on another machine."""
    words = [_NUMBER.sub("#", text).split() for text in (said, shown)]
    numbers = [[float(number) for number in _NUMBER.findall(text)] for text in (said, shown)]
    close = all(abs(a - b) <= within * max(1.0, abs(b)) for a, b in zip(*numbers, strict=False))
    return words[0] == words[1] and len(numbers[0]) == len(numbers[1]) and close
