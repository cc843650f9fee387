"""Steps of a case in a process of its own, as `test_processes` starts it: what it writes goes to the folder it is given.

python tests/hostile/step.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import small_models

from circuits.case.measured import Recorder
from circuits.case.progress import Progress
from circuits.errors import CircuitError
from circuits.judges import EndpointJudge
from circuits.measure.attention import classify_heads
from circuits.measure.residual import patch_residual
from circuits.metrics import RefusalMetric
from circuits.model import load
from circuits.report import Report, Section, write


def main(folder: Path) -> None:
    """Measure, save, report; say every error and every repr that could tell a secret."""
    model, tokens = small_models.model("gemma2"), small_models.uneven()
    metric, progress = RefusalMetric(model, "w60"), Progress(total=2)
    recorder = Recorder(model, tokens, folder / "data", progress)
    resid = recorder.measure("residual", lambda: patch_residual(model, tokens, metric))
    roles = recorder.measure("classes", lambda: classify_heads(model, tokens))
    judge = EndpointJudge("http://127.0.0.1:9/v1", "judge", cache=folder / "answers.sqlite", tries=1, timeout_s=2)
    judged = judge(["a prompt"], ["an answer"])
    sys.stdout.write(
        f"{judge!r} {vars(judge)!r} {judged.missing} {judged.cost}\n{model!r} {tokens!r} {resid.provenance}\n"
    )
    for name in ("nobody/such-model", str(folder)):
        try:
            load(name)
        except CircuitError as error:
            sys.stderr.write(f"{error}\n{error.__cause__!r}\n{error.__context__!r}\n")
    sections = [
        Section(name, name, "claim", {name: found.figure()}, table=found.to_frame())
        for name, found in {"resid": resid, "roles": roles}.items()
    ]
    write(Report(
        title="t", question="q", model=model.title, model_note="", pairs=repr(tokens), metric=metric.name, verdicts=[],
        certificate=resid.provenance.certificate, sections=sections,
    ), folder / "report", images="never")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
