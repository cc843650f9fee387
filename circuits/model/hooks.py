"""Reading and overwriting activations: the only place in the package that installs hooks.

    with hooked(model.parts, {Site("mlp_out", 3): edit}, n_heads=8) as fired:
        model.hf(...)
    fired[Site("mlp_out", 3)]        # how often it did

An edit gets the activation and returns its replacement, or None to leave it: reading is an edit that keeps what it
sees. Heads' values (z) are shown as [row, pos, head, d_head]; the module sees them flat. One hook serves a site,
however many rows it edits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from circuits.errors import AuditError, SiteError
from circuits.model.parts import Parts, Side
from circuits.sites import Site

Edit = Callable[[Tensor], Tensor | None]


@contextmanager
def hooked(parts: Parts, edits: Mapping[Site, Edit], *, n_heads: int) -> Generator[Counter[Site]]:
    """Install one hook per site for the length of the context and count how often each fires.

    Raises SiteError before installing anything if a site names one head (give the whole site) or does not exist.
    """
    located = {site: parts.locate(site) for site in edits}
    for site in edits:
        if site.head is not None:
            raise SiteError(f"{site.label}: hooks act on whole sites; edit {site.whole.label} and index its head")
    fired: Counter[Site] = Counter()
    handles: list[RemovableHandle] = []
    try:
        for site, edit in edits.items():
            module, side = located[site]
            handles.append(_install(module, side, site, edit, fired, n_heads))
        yield fired
    finally:
        for handle in handles:
            handle.remove()


def _install(
    module: nn.Module, side: Side, site: Site, edit: Edit, fired: Counter[Site], n_heads: int
) -> RemovableHandle:
    def apply(activation: Tensor) -> Tensor | None:
        fired[site] += 1
        if site.kind != "z":
            return edit(activation)
        new = edit(activation.unflatten(-1, (n_heads, -1)))
        return None if new is None else new.flatten(-2)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        new = apply(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if side == "weights":
            apply(output[1])  # read only: softmax has been applied and the values are already mixed
            return None
        new = apply(output[0] if isinstance(output, tuple) else output)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    if side == "in":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def require_fired(edits: Mapping[Site, Edit], fired: Mapping[Site, int], model: str) -> None:
    """Raise AuditError naming the sites whose hook never fired: an edit that does nothing is an error, not a zero."""
    silent = [site.label for site in edits if not fired.get(site)]
    if silent:
        raise AuditError(f"{model}: hooks at {', '.join(silent)} did not fire; the edit did nothing")


class _EnoughError(Exception):
    """Leaves a forward pass whose rest is not wanted."""


@contextmanager
def recorded(parts: Parts, *, stop: bool = False) -> Generator[list[dict[str, Any]]]:
    """Keep every block's call, to be repeated in part later: keyword arguments, its input under `hidden_states`.

    One more call comes last, that of the final norm: its input is the final residual. With `stop` the forward pass in
    the context is left at the first block.
    """
    calls: list[dict[str, Any]] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(kwargs | ({"hidden_states": args[0]} if args else {}))
        if stop:
            raise _EnoughError

    modules = [*(block.whole for block in parts.blocks), parts.ln_final]
    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    try:
        with suppress(_EnoughError):
            yield calls
    finally:
        for handle in handles:
            handle.remove()
