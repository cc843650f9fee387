"""What cases share: the command line, steps as they go, and a study that writes down what it measures and tells.

`command` reads arguments and returns exit codes, `progress` shows steps, `layers` and `options` are arguments; `study` is what
a case works with, `condition` turns intervals into verdicts, `wording` numbers into sentences, `made` says how it was made.
Only what is light is imported here, so that --help answers at once.
"""

from circuits.case.command import Case, few_threads, main, parser, writable
from circuits.case.layers import layer_groups
from circuits.case.progress import Progress

__all__ = ["Case", "Progress", "few_threads", "layer_groups", "main", "parser", "writable"]
