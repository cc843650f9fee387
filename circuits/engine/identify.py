"""What a computation was asked, as a hash of contents: equal questions have equal answers, in any process.

Tensors count by their bytes, dataclasses and other objects by class and fields, functions and classes from elsewhere by
their code too. A model counts by every byte of its weights.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
import sys
import types
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor

from circuits.errors import CircuitError
from circuits.model import Model
from circuits.model.identity import identity, tokenizer_hash
from circuits.prompts.align import TokenPairs
from circuits.result import versions

_SOURCE = (".py", ".csv", ".json", ".jinja", ".yaml")
"""Bundled models are identified by their own weights."""


@functools.cache
def code_version() -> str:
    """Version of this package, with a hash of its own source and data: other code may give other numbers."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(f for f in root.rglob("*") if f.suffix in _SOURCE):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{metadata.version('circuit-patching')}+{digest.hexdigest()[:12]}"


code_version()  # of the source as it is imported: what is changed on disk while a run goes on is not what computed it


def contents(*what: object) -> str:
    """Twenty-four hex digits of the sha256 of values. Raises CircuitError for one whose contents cannot be told."""
    return _Look().of(what).hex()[:24]


def digest(*what: object) -> str:
    """The same of values and of all that computes with them: this code, the packages below it, the number of threads."""
    return contents(code_version(), _below(), _settings(), *what)


def _settings() -> tuple[object, ...]:
    """What torch was told about how to compute: each of these changes digits, some the third one."""
    return (
        torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction, torch.backends.mkldnn.enabled,
        platform.python_version(), platform.machine(),
    )  # fmt: skip


@functools.cache
def _below() -> tuple[tuple[str, str], ...]:
    return tuple(sorted(versions().items()))


@final
class _Look:
    """The hash of any value, from those of its parts; of an object met again it is known."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, bytes]] = {}
        """By identity; the objects are kept alive so that no other takes their place. Empty bytes: being looked at."""

    def of(self, what: Any) -> bytes:
        match what:
            case None | bool() | int() | float() | complex() | str() | bytes():
                return _hash(type(what).__name__, repr(what))
            case torch.device() | torch.dtype() | range() | slice():
                return _hash(type(what).__name__, str(what))
            case _ if id(what) in self._known:
                return self._known[id(what)][1] or _hash("cycle")
            case _:
                self._known[id(what)] = (what, b"")
                found = self._whole(what)
                self._known[id(what)] = (what, found)
                return found

    def _whole(self, what: Any) -> bytes:
        match what:
            case Tensor():
                data = what.detach().contiguous().cpu().flatten().view(torch.uint8).numpy() if what.numel() else b""
                return _hash("tensor", f"{tuple(what.shape)} {what.dtype}", data)
            case Model():
                return _hash("model", identity(what))
            case TokenPairs():  # what metrics read of pairs stands beside the ids
                named = f"{what.hash} {what.subject.tolist()} {what.instruction.tolist()}"
                return _hash("pairs", named, self.of(what.pairs.pairs))
            case types.ModuleType() | types.BuiltinFunctionType():
                own = isinstance(what, types.ModuleType) and not _installed(what.__name__)
                source = Path(str(getattr(what, "__file__", ""))).read_bytes() if own else b""
                return _hash("named", f"{getattr(what, '__module__', '')}.{what.__name__}", source)
            case functools.partial() | types.MethodType() | types.FunctionType() | type():
                return self._code(what)
            case _:
                return self._parts(what)

    def _parts(self, what: Any) -> bytes:
        match what:
            case Mapping():
                return self._fields("mapping", {repr(k): v for k, v in cast("Mapping[Any, Any]", what).items()})
            case set() | frozenset():
                return _hash("set", *sorted(self.of(part) for part in cast("set[Any]", what)))
            case tuple() | list():
                return _hash(type(what).__name__, *(self.of(part) for part in cast("list[Any]", what)))
            case _:
                return self._object(what)

    def _object(self, what: Any) -> bytes:
        cls = type(what)
        if hasattr(what, "get_vocab") and hasattr(what, "special_tokens_map"):
            return _hash("tokenizer", tokenizer_hash(what))
        if dataclasses.is_dataclass(what):
            fields = {f.name: getattr(what, f.name) for f in dataclasses.fields(what)}
        elif hasattr(what, "__dict__"):
            fields = vars(what)
        else:
            raise CircuitError(
                f"cannot tell what a {cls.__module__}.{cls.__qualname__} holds, so nothing computed with it can be found "
                "again\nuse tensors, numbers, text and dataclasses in metrics, or measure outside of `keep`"
            )
        return _hash("object", self.of(cls), self._fields("fields", fields))

    def _code(self, what: Any) -> bytes:
        if isinstance(what, functools.partial):
            parts = {"call": what.func, "args": what.args, "keywords": what.keywords}  # pyright: ignore[reportUnknownMemberType]
            return self._fields("partial", parts)
        if isinstance(what, types.MethodType):
            return self._fields("method", {"of": what.__self__, "call": what.__func__})
        name = f"{what.__module__}.{what.__qualname__}"
        if _installed(what.__module__):
            return _hash("code", name)  # versions are part of every digest
        if isinstance(what, type):
            own = {n: _callable(v) for n, v in vars(what).items() if n not in _OF_EVERY_CLASS}
            return _hash("class", name, *map(self.of, what.__bases__), self._fields("own", own))
        # what it computes with stands outside of it too: constants and functions beside it
        around = {n: what.__globals__[n] for n in _names(what.__code__) if n in what.__globals__}
        cells = [cell.cell_contents for cell in what.__closure__ or ()]
        inside = {"closure": cells, "defaults": what.__defaults__, "keywords": what.__kwdefaults__, "around": around}
        return _hash("code", name, _compiled(what.__code__), self._fields("fields", inside))

    def _fields(self, kind: str, fields: Mapping[str, object]) -> bytes:
        return _hash(kind, *(part for name in sorted(fields) for part in (name, self.of(fields[name]))))


_OF_EVERY_CLASS = frozenset({
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__abstractmethods__", "_abc_impl",
    "__orig_bases__", "__parameters__", "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__slots__",
    "__firstlineno__", "__static_attributes__",
})  # fmt: skip


def _installed(module: str | None) -> bool:
    """Whether a module is of the standard library or of an installed package; what people write themselves is not."""
    if module is None or module == "__main__":
        return False
    top = module.partition(".")[0]
    if top == "circuits" or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and ("site-packages" in file or "dist-packages" in file)


def _callable(value: Any) -> Any:
    """The functions of a descriptor."""
    match value:
        case property():
            return [value.fget, value.fset]
        case staticmethod() | classmethod():
            return value.__func__
        case functools.cached_property():
            return value.func
        case _:
            return value


def _names(code: types.CodeType) -> set[str]:
    """The names that code looks up, that of functions within it too."""
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _compiled(code: types.CodeType) -> bytes:
    constants = (_compiled(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts)
    return _hash(code.co_code, repr(code.co_names), *constants)


def _hash(*parts: str | bytes | Any) -> bytes:
    """Of parts in this order; the length of each stands before it, so that no two lists of parts run together."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hashed.update(f"{len(data)}:".encode())
        hashed.update(data)
    return hashed.digest()
