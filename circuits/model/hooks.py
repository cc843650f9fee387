"""Reading and overwriting activations: the only place in the package that installs hooks.

    with hooked(model.parts, {Site("mlp_out", 3): edit}) as fired:
        model.hf(...)
    fired[Site("mlp_out", 3)]        # how often it did

An edit gets the activation and returns its replacement, or None to leave it: reading is an edit that keeps what it
sees. Activations with heads are shown as [row, pos, head, …]; the module sees them flat. One hook serves a site,
however many rows it edits, and sites of one block act in the order of the forward pass.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from circuits.errors import AuditError, SiteError
from circuits.model import weights
from circuits.model.parts import Parts, Place, View
from circuits.sites import ORDER, Site

Edit = Callable[[Float[Tensor, "row pos ..."]], Float[Tensor, "row pos ..."] | None]


@contextmanager
def hooked(parts: Parts, edits: Mapping[Site, Edit]) -> Generator[Counter[Site]]:
    """Install one hook per site for the length of the context and count how often each fires.

    Raises SiteError before installing anything if a site names one head (give the whole site) or does not exist.
    """
    located = {site: parts.locate(site) for site in edits}
    for site in edits:
        if site.index is not None:
            raise SiteError(f"{site.label}: hooks act on whole sites; edit {site.whole.label} and index its head")
    fired: Counter[Site] = Counter()

    def counted(site: Site, activation: Tensor) -> Tensor | None:
        fired[site] += 1
        return edits[site](activation)

    with ExitStack() as installed:
        for site in sorted(edits, key=lambda s: (s.layer, ORDER[s.kind])):
            for remove in _install(located[site], partial(counted, site)):
                installed.callback(remove)
        yield fired


@contextmanager
def counting(parts: Parts) -> Generator[Counter[str]]:
    """Count the tokens whose heads' results every block multiplies by W_O, under `token_layers`.

    That is every token of a block that runs to its end; a call that stops at its keys and values is not counted.
    """
    seen: Counter[str] = Counter()

    def count(z: Tensor) -> None:
        seen["token_layers"] += z.shape[0] * z.shape[1]

    with ExitStack() as installed:
        for layer in range(len(parts.blocks)):
            for remove in _install(parts.locate(Site("z", layer)), count):
                installed.callback(remove)
        yield seen


def _install(place: Place, edit: Edit) -> list[Callable[[], None]]:
    """Install what reaches a place and return how to take it away again."""
    module = place.module
    match place.side:
        case "in":
            return [_before(module, _through(place.view, edit))]
        case "out":
            return [_after(module, _through(place.view, edit))]
        case "attention":
            return [weights.edited(module, edit)]
        case "product":
            return _each_heads_share(module, place.view, edit)
        case "sum":
            return _with_what_entered(place, edit)


def _through(view: View | None, edit: Edit) -> Edit:
    """The edit of a part of a tensor as an edit of the whole."""
    if view is None:
        return edit

    def whole(t: Tensor) -> Tensor | None:
        seen = view(t)
        new = edit(seen)
        if new is None:
            return None
        if t.is_contiguous() and seen.is_contiguous() and new.numel() == t.numel():  # the same order of entries
            return new.reshape(t.shape)
        t = t.clone()
        view(t).copy_(new)
        return t

    return whole


def _before(module: nn.Module, edit: Edit) -> Callable[[], None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        new = edit(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _after(module: nn.Module, edit: Edit) -> Callable[[], None]:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        new = edit(output[0] if isinstance(output, tuple) else output)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return module.register_forward_hook(hook).remove


def _each_heads_share(projection: nn.Module, heads: View | None, edit: Edit) -> list[Callable[[], None]]:
    """Show what every head's z contributes to the projection, and add to its output what the edit changes."""
    entered: list[Tensor] = []

    def keep(z: Tensor) -> None:
        entered[:] = [z]

    def add(out: Tensor) -> Tensor | None:
        z = entered[0] if heads is None else heads(entered[0])
        old = weights.head_products(projection, z)
        new = edit(old)
        return None if new is None else out + (new - old).sum(-2)

    return [_before(projection, keep), _after(projection, add)]


def _with_what_entered(place: Place, edit: Edit) -> list[Callable[[], None]]:
    """Show a write together with the residual it is added to; the edit of the sum becomes an edit of the write."""
    entered: list[Tensor] = []

    def keep(resid: Tensor) -> None:
        entered[:] = [resid]

    def change(written: Tensor) -> Tensor | None:
        new = edit(entered[0] + written)
        return None if new is None else new - entered[0]

    if place.block is None:
        raise SiteError("a sum needs the block whose input is added")
    return [_before(place.block, keep), _after(place.module, change)]


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

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first, *others = inspect.signature(module.forward).parameters
        named = dict(zip(others, args[1:], strict=False)) | kwargs
        calls.append(named | {"hidden_states": args[0] if args else named.pop(first)})
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
