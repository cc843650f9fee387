"""`import circuits` and `--help` load nothing heavy, and so answer at once."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys

import pytest

HEAVY = {"torch", "pandas", "plotly", "transformers", "transformer_lens", "sae_lens", "scipy", "networkx"}
HELP = ["-m", "circuits.cases.gemma_refusal", "--help"]


def python(*arguments: str) -> tuple[str, str, float]:
    """Standard output, standard error and CPU seconds of a Python of its own."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = spent()
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    return done.stdout, done.stderr, spent() - before


def loaded(*arguments: str) -> set[str]:
    """Top-level names of all modules that such a Python imports."""
    _, trace, _ = python("-X", "importtime", *arguments)
    return {name.split(".")[0] for name in re.findall(r"\| +(\S+)$", trace, re.MULTILINE)}


def test_the_trace_of_imports_sees_a_heavy_one():
    assert "scipy" in loaded("-c", "import scipy")


def test_importing_the_package_loads_nothing_heavy():
    seen = loaded("-c", "import circuits")
    assert "circuits" in seen
    assert not seen & HEAVY


def test_help_loads_nothing_heavy():
    seen = loaded(*HELP)
    assert "circuits" in seen
    assert not seen & HEAVY


def test_importing_the_package_takes_less_than_a_third_of_a_second():
    code = "from time import process_time as t; a = t(); import circuits; print(t() - a)"
    assert min(float(python("-c", code)[0]) for _ in range(5)) < 0.3


def test_help_takes_less_than_a_second():
    assert min(python(*HELP)[2] for _ in range(5)) < 1.0


def test_help_names_the_options():
    text, _, _ = python(*HELP)
    assert "--model" in text
    assert "--pairs" in text


def test_every_public_name_can_be_imported():
    import circuits

    assert circuits.__all__
    for name in circuits.__all__:
        assert getattr(circuits, name) is not None
    assert set(circuits.__all__) <= set(dir(circuits))


def test_an_unknown_name_is_an_attribute_error():
    import circuits

    with pytest.raises(AttributeError, match="patch_noses"):
        circuits.patch_noses  # noqa: B018  reading it is the test
