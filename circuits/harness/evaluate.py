"""evaluate_tasks(): what models score on tasks of lm-eval, and how that differs from the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from circuits.errors import CircuitError
from circuits.harness.wrapped import apart, need, wrapped
from circuits.model import Model
from circuits.stats import mean_interval

if TYPE_CHECKING:
    import pandas as pd

TASKS: Final = Path(__file__).parent / "tasks"
"""The tasks that come with the package."""
_BOOTSTRAP: Final = 1000
"""Draws for the standard error of metrics that have none in closed form."""
_SEED: Final = 1234
"""Of the examples shown before a question; the same for all models."""
Scores = dict[int, float]
"""Document -> the value of one metric."""


def evaluate_tasks(
    models: Mapping[str, Model],
    tasks: Sequence[str],
    *,
    folder: str | Path | None = None,
    limit: int | None = None,
    chat: bool | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Run tasks on every model as it is loaded and return one row per model, task and metric.

    `value` with `stderr` is lm-eval's. `change` is the mean difference per document from the first model, with its 95 %
    bootstrap interval over documents (`change_low`, `change_high`): NaN for the first model, and for metrics that have no
    value per document. `n` counts documents.

    Tasks are the package's (`circuits_harm`, `circuits_kinds`), those whose YAML files lie in `folder`, or any that
    lm-eval knows, whose data come from the hub. `limit` documents of each; None: all. `chat` puts questions into the
    chat template; None: where the tokenizer has one. Raises CircuitError without lm-eval, for unknown tasks, and for
    data that cannot be had; all before a model is run.
    """
    import pandas as pd

    if not models or not tasks:
        raise CircuitError("nothing to evaluate\ngive at least one model by name, and one task")
    if limit is not None and limit < 1:
        raise CircuitError(f"a limit of {limit} documents leaves none\ngive 1 or more, or None for all")
    evaluator = need("lm_eval.evaluator")
    rows: list[dict[str, Any]] = []
    first: dict[tuple[str, str], Scores] = {}
    with apart():
        manager = _manager(tasks, folder)
        loaded = [_loaded(manager, list(tasks), num_fewshot) for _ in models]  # a task keeps the requests made of it
        for (name, model), of_model in zip(models.items(), loaded, strict=True):
            asked = bool(getattr(model.tokenizer, "chat_template", None)) if chat is None else chat
            found: dict[str, Any] = evaluator.evaluate(
                lm=wrapped(model, batch_size=batch_size), task_dict=of_model, limit=limit, apply_chat_template=asked,
                fewshot_as_multiturn=asked, bootstrap_iters=_BOOTSTRAP, log_samples=True,
            )  # fmt: skip
            rows += [row | {"model": name, "title": model.title, "chat": asked} for row in _rows(found, first)]
    columns = [
        "model", "task", "metric", "value", "stderr", "n", "change", "change_low", "change_high", "higher_is_better", "chat",
        "task_version", "title",
    ]  # fmt: skip
    return pd.DataFrame(rows)[columns]


def _manager(tasks: Sequence[str], folder: str | Path | None) -> Any:
    """Knows the local tasks; and all of lm-eval's where one of these is not local, since listing those takes long."""
    if folder is not None and not any(Path(folder).rglob("*.yaml")):
        raise CircuitError(f"{folder} holds no task\nput YAML files of lm-eval there, or leave `folder` out")
    places = [str(TASKS), *([] if folder is None else [str(folder)])]
    manager = need("lm_eval.tasks").TaskManager
    local = manager(include_path=places, include_defaults=False)
    missing = [task for task in tasks if task not in local.all_tasks]
    if not missing:
        return local
    every = manager(include_path=places, include_defaults=True)
    unknown = [task for task in missing if task not in every.all_tasks]
    if unknown:
        raise CircuitError(
            f"no task called {', '.join(unknown)}\nlocal ones are {', '.join(local.all_tasks)}; lm-eval's are listed by "
            "`lm-eval ls tasks`"
        )
    return every


def _loaded(manager: Any, tasks: list[str], num_fewshot: int | None) -> dict[str, Any]:
    """Tasks with their data. Raises CircuitError where the data cannot be had."""
    try:
        found: dict[str, Any] = manager.load(tasks)
    except (OSError, ValueError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CircuitError(
            f"the data of {', '.join(tasks)} cannot be had: {lines[0]}\nrun it where the hub is reachable, or use local tasks "
            "(circuits_harm, circuits_kinds)"
        ) from error
    for task in found["tasks"].values():
        if num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEED)
    return found


def _rows(found: dict[str, Any], first: dict[tuple[str, str], Scores]) -> list[dict[str, Any]]:
    """One row per task and metric of one model's results; `first` is filled by the first model and compared with after."""
    rows: list[dict[str, Any]] = []
    for task, scores in found["results"].items():
        for key, value in scores.items():
            metric, comma, kept = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            stderr = scores.get(f"{metric}_stderr,{kept}")
            own = _per_document(found["samples"].get(task, []), metric, kept)
            rows.append({
                "task": task, "metric": metric if kept == "none" else key, "value": value,
                "stderr": stderr if isinstance(stderr, float) else np.nan,
                "n": found["n-samples"].get(task, {}).get("effective"),
                "higher_is_better": found["higher_is_better"].get(task, {}).get(metric),
                "task_version": found["versions"].get(task), **_change(own, first.setdefault((task, key), own)),
            })  # fmt: skip
    return rows


def _per_document(samples: list[dict[str, Any]], metric: str, kept: str) -> Scores:
    """A metric's value on each document; empty unless each has one number."""
    found: Scores = {}
    for sample in samples:
        if sample["filter"] == kept:
            value: object = sample.get(metric)
            if not isinstance(value, int | float):
                return {}
            found[int(sample["doc_id"])] = float(value)
    return found


def _change(own: Scores, first: Scores) -> dict[str, float]:
    """Mean difference from the first model over the same documents; NaN for itself, and where there are no numbers."""
    if own is first or not own or own.keys() != first.keys():
        return dict.fromkeys(("change", "change_low", "change_high"), float("nan"))
    found = mean_interval([own[i] - first[i] for i in sorted(own)])
    return {"change": found.estimate, "change_low": found.low, "change_high": found.high}
