"""Nothing that is read can run: no pickle is loaded, no code of a model folder is called, and no source says otherwise."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from safetensors.torch import load_file

from circuits.errors import ModelError
from circuits.model import load
from circuits.sae.place import SAFE_LOADERS, resolve_sae

PACKAGE = Path(__file__).resolve().parents[2] / "circuits"
FORBIDDEN = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "ruamel", "tarfile",
    "torch.hub", "numpy.lib.npyio",
}  # fmt: skip
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "np.load", "numpy.load", "pd.read_pickle",
    "pandas.read_pickle", "np.fromfile", "torch.jit.load", "importlib.reload",
    "pickle.loads", "pickle.load", "shutil.unpack_archive",
}  # fmt: skip
OWN = {"remote/packed.py: imports pickle", "remote/packed.py: calls pickle.loads"}
"""What a process that this package started is sent by the one that started it; nothing of it was ever a file."""
ARGUMENTS = {
    ("shell", "True"), ("trust_remote_code", "True"), ("allow_pickle", "True"), ("weights_only", "False"),
    ("use_safetensors", "False"), ("autoescape", "False"),
}  # fmt: skip


def _trees() -> dict[str, ast.Module]:
    return {
        str(p.relative_to(PACKAGE)): ast.parse(p.read_text(encoding="utf-8")) for p in sorted(PACKAGE.rglob("*.py"))
    }


def found_in(name: str, tree: ast.Module) -> list[str]:
    """What a source says that it should not."""
    wrong: list[str] = []
    for node in ast.walk(tree):
        named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        wrong += [f"{name}: imports {n}" for n in named if n in FORBIDDEN or n.split(".")[0] in FORBIDDEN]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            wrong += (
                [f"{name}: calls {called}"] if called in CALLS or called.endswith((".extractall", ".extract")) else []
            )
            said = [(k.arg, ast.unparse(k.value)) for k in node.keywords if isinstance(k.value, ast.Constant)]
            wrong += [f"{name}: {argument}={value}" for argument, value in said if (argument, value) in ARGUMENTS]
    return wrong


def test_no_source_unpickles_evaluates_or_unpacks():
    trees = _trees()
    assert len(trees) > 200
    assert {wrong for name, tree in trees.items() for wrong in found_in(name, tree)} - OWN == set()


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from joblib import load", "torch.load(x)", "np.load(x, allow_pickle=True)", "eval(x)",
     "import torch.hub", "archive.extractall()", "run(x, shell=True)", "A.from_pretrained(x, trust_remote_code=True)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(text: str):
    assert found_in("x", ast.parse(text))


def test_weights_are_asked_for_as_safetensors_and_without_code():
    text = (PACKAGE / "model" / "load.py").read_text(encoding="utf-8")
    calls = [
        n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and "from_pretrained" in ast.unparse(n.func)
    ]
    assert len(calls) == 3  # configuration, tokenizer, weights
    for call in calls:
        assert {k.arg: ast.unparse(k.value) for k in call.keywords}["trust_remote_code"] == "trust_remote_code"
    assert "trust_remote_code: bool = False" in text
    assert "use_safetensors=True" in text


# --- folders that would run code -------------------------------------------------------------------------------------------


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_models.folder("llama"), tmp_path / "model"))


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def _configured(folder: Path, name: str = "config.json", **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_trap_works(trap: Path):
    pickle.loads(pickle.dumps(Evil(trap))).close()  # noqa: S301  what the package never does
    assert trap.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "consolidated.00.pth"])
def test_weights_that_are_a_pickle_are_refused(name: str, folder: Path, trap: Path):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(ModelError, match=rf"model.safetensors is missing \({name} is a pickle and is not read\)"):
        load(str(folder), device="cpu")
    assert not trap.exists()


def test_a_pickle_beside_the_weights_is_not_read(folder: Path, trap: Path):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(pickle.dumps(Evil(trap)))
    assert load(str(folder), device="cpu").hash == small_models.model("llama").hash
    assert not trap.exists()


def test_weights_that_call_themselves_safetensors_and_are_a_pickle(folder: Path, trap: Path):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(ModelError, match="does not load"):
        load(str(folder), device="cpu")
    assert not trap.exists()


@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_folder_is_not_run(known: bool, folder: Path, trap: Path):
    (folder / "evil.py").write_text(
        f"open({str(trap)!r}, 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M, LlamaTokenizer as T\n"
    )
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "evil.py", folder / "custom_generate" / "generate.py")
    _configured(
        folder, auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}
    )
    _configured(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})
    if known:  # an architecture that transformers has: its own code is taken
        assert torch.equal(load(str(folder), device="cpu").W_U, small_models.model("llama").W_U)
    else:
        _configured(folder, model_type="evil")
        with pytest.raises(ModelError, match="that code was not run"):
            load(str(folder), device="cpu")
    assert not trap.exists()


def test_pickled_autoencoders_are_refused(tmp_path: Path, trap: Path):
    (tmp_path / "cfg.json").write_text("{}")
    (tmp_path / "sae_weights.pt").write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(ModelError, match="sae_weights.pt is a pickle and is not read"):
        resolve_sae(str(tmp_path), None)
    assert not trap.exists()
    assert not {"dictionary_learning_1", "deepseek_r1", "gpt2_dictionary"} & set(SAFE_LOADERS)


def test_weights_are_numbers_alone(folder: Path):
    assert all(isinstance(t, torch.Tensor) for t in load_file(folder / "model.safetensors").values())
