"""Versions: transformer-lens 3 and 4, with and without sae-lens, and what stands beside the code agrees with it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import small_models
import tiny
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import circuits
from circuits.errors import CircuitError
from circuits.organisms.sae import SaeRecipe, train_sae
from circuits.prompts.tokenizer import tokenizer_of
from circuits.sae import load_sae

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

IN_BOTH = {"transformer_lens.model_bridge.TransformerBridge", "transformer_lens.patching"}
"""All that is imported of transformer-lens: what version 4 has, which has no HookedTransformer, and version 3 has, too."""


def pins(name: str) -> dict[str, Version]:
    """The versions that a file of constraints names."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {n: Version(v) for n, _, v in (line.partition("==") for line in lines if not line.startswith("#"))}


def imported(path: Path) -> set[str]:
    """All that a file imports of transformer-lens, anywhere in it."""
    text, found = path.read_text(encoding="utf-8"), set[str]()
    if "transformer_lens" not in text:
        return found
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "transformer_lens"}


# -- transformer-lens


def test_only_what_both_versions_have_is_imported():
    files = [*(ROOT / "circuits").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert {name for path in files for name in imported(path)} == IN_BOTH


# -- sae-lens


@pytest.fixture
def without_sae_lens(monkeypatch):
    for name in {"sae_lens", *(n for n in sys.modules if n.startswith("sae_lens."))}:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("without_sae_lens")
@pytest.mark.parametrize(
    ("where", "sae_id"), [("refusal-gemma", None), ("owner/repository", "layer_1"), ("gpt2-small-res-jb", None)]
)
def test_an_autoencoder_without_sae_lens_says_what_to_install(where, sae_id):
    with pytest.raises(CircuitError, match="need the package sae-lens.*\npip install 'sae-lens") as caught:
        load_sae(where, sae_id=sae_id, model=small_models.model("llama"))
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.usefixtures("without_sae_lens")
def test_a_training_without_sae_lens_says_what_to_install():
    with pytest.raises(CircuitError, match="need the package sae-lens.*\npip install 'sae-lens"):
        train_sae(small_models.model("llama"), SaeRecipe(layer=1))


def test_what_is_to_be_installed_is_what_the_project_asks_for():
    from circuits.sae import library

    said = re.findall(r"'((?:sae|transformer)-lens[<>=][^']*)'", Path(library.__file__).read_text(encoding="utf-8"))
    asked = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    for requirement in map(Requirement, said):
        assert set(asked[requirement.name]) <= set(requirement.specifier), requirement
    assert {Requirement(r).name for r in said} == {"sae-lens", "transformer-lens"}


# -- what goes with the code


def test_hooks_before_a_commit_need_no_network():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert {hook["entry"].split()[0] for hook in hooks} == {".venv/bin/ruff", ".venv/bin/pyright"}


PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "contributing").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_for_contributors_name_what_is_there(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"`make ([a-z0-9-]+)", text)
    assert set(named) <= set(targets)
    paths = re.findall(r"`((?:circuits|tests|docs)/[\w./-]+\.\w+)`", text)
    assert paths
    assert not [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert not [link for link in linked if not (page.parent / link).exists()]


# -- versions


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-tl4.txt"])
def test_the_tested_versions_are_allowed(name):
    tested = pins(name)
    for requirement in map(Requirement, PROJECT["dependencies"]):
        if requirement.name in tested:
            assert requirement.specifier.contains(tested[requirement.name]), requirement


def test_the_second_environment_is_the_first_but_for_transformer_lens():
    first, second = pins("constraints.txt"), pins("constraints-tl4.txt")
    assert (first["transformer-lens"].major, second["transformer-lens"].major) == (3, 4)
    assert "sae-lens" not in second
    assert {n for n, v in second.items() if first.get(n) != v} == {"transformer-lens"}
    needed = {Requirement(r).name for r in PROJECT["dependencies"]} - {"sae-lens"}
    assert needed <= second.keys()


def test_the_version_is_the_same_everywhere():
    assert circuits.__version__ == PROJECT["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [PROJECT["version"]]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"]


class Delegating:
    """Answers by `__getattr__`, as transformers does for special tokens; isinstance does not ask it from Python 3.12 on."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, text, **options):
        return self.inner(text, **options)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_tokenizer_is_known_by_every_python():
    for tokenizer in (tiny.tokenizer(), Delegating(tiny.tokenizer())):
        assert tokenizer_of(tokenizer) is tokenizer
    with pytest.raises(CircuitError, match="neither a tokenizer nor"):
        tokenizer_of(Delegating(object()))


def test_pythons_that_are_named_are_allowed():
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert "3.11" in named
    assert all(allowed.contains(version) for version in named)
