"""A report: findings in the order of an argument, written as a folder that opens offline.

    report = Report(title=…, question=…, model=…, verdicts=[…], sections=[…], …)
    index = write(report, "runs/mine/report")        # index.html, figures/, tables/, plotly.min.js
    verdict_table(report.verdicts)                    # the same verdicts for a terminal

`contents` says what a report is made of, `folder` writes it, `page` fills the templates, `stills` draws PNG
and SVG. Numbers published elsewhere are shown in grey beside ours, as a reference and never as a result.
"""

from circuits.report.contents import Completion, Report, Section, Verdict
from circuits.report.folder import write
from circuits.report.stills import Stills
from circuits.report.terminal import verdict_table

__all__ = ["Completion", "Report", "Section", "Stills", "Verdict", "verdict_table", "write"]
