"""What the tests check types with refuses what it ought to, whenever and wherever a function is defined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import typecheck
from jaxtyping import Float, Int, TypeCheckError, jaxtyped
from torch import Tensor

from circuits.linalg import cosine

checked = jaxtyped(typechecker=typecheck.checked)


def _define(hint: Any, gives: Any = Any, default: Any = None) -> Callable[..., Any]:
    """A function within a function, as the package has them: always the same but for what it is said to take and give."""

    def inner(x: Any, y: Any = default) -> Any:
        del y
        return x

    inner.__annotations__ = {"x": hint, "return": gives}
    return checked(inner)


def test_the_package_is_checked():
    with pytest.raises(TypeCheckError, match="cosine"):
        cosine("a vector", torch.ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("time", ["first", "again"])
def test_what_is_defined_anew_is_checked_anew(time: str):
    del time
    for hint, good, bad in (
        (Float[Tensor, "a b"], torch.ones(2, 3), torch.ones(2)),
        (Int[Tensor, "a b"], torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3)),
        (list[Float[Tensor, " a"]], [torch.ones(2)], [torch.ones(2, 2)]),
        (list[Float[Tensor, "a b"]], [torch.ones(2, 2)], [torch.ones(2)]),
        (Callable[[int], int], len, 1),
        (dict[str, Any], {"a": 1}, {1: "a"}),
        (float, 1, "1"),
        (str | None, None, 1),
    ):
        assert _define(hint)(good) is good
        assert _define(Any, hint)(good) is good
        with pytest.raises(TypeCheckError, match="parameters"):
            _define(hint)(bad)
        with pytest.raises(TypeCheckError, match="return value"):
            _define(Any, hint)(bad)


def test_sizes_hold_for_one_call_and_no_other():
    inner = [_define(Float[Tensor, " a"], Float[Tensor, " a"]) for _ in range(2)]
    for n in (2, 3, 2):
        assert [len(each(torch.ones(n))) for each in inner] == [n, n]

    @checked
    def outer(x: Float[Tensor, " a"], y: Float[Tensor, " a"]) -> None:
        del x, y

    outer(torch.ones(2), torch.ones(2))
    with pytest.raises(TypeCheckError, match="parameters"):
        outer(torch.ones(2), torch.ones(3))


def test_one_check_for_one_signature(monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []
    whole = typecheck.beartype

    def counted(what: Any, **options: Any) -> Any:
        made.append(what)
        return whole(what, **options)

    monkeypatch.setattr(typecheck, "beartype", counted)
    monkeypatch.setattr(typecheck, "_made", {})
    for default in (None, 1, 1.0, True):
        before = len(made)
        for _ in range(3):
            _define(Float[Tensor, "one two"], default=default)
        assert len(made) == before + 2, "one for what it takes, one for what it gives"
    for _ in range(3):  # nobody knows whether two objects mean the same
        _define(Float[Tensor, "one two"], default=object())
    assert len(made) == 8 + 6
