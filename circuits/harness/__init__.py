"""Tasks of lm-eval on models as they are loaded here: edited and unedited, in one table.

    evaluate_tasks({"unedited": model, "edited": other}, ["circuits_harm", "circuits_kinds"])
    evaluate_tasks({"unedited": model, "edited": other}, ["arc_easy"], limit=200)      # needs the hub, or its cache

Two tasks come with the package and need no network (`tasks/SOURCES.md`). The package lm-eval is an extra and imported on use.
"""

from circuits.harness.evaluate import evaluate_tasks

__all__ = ["evaluate_tasks"]
