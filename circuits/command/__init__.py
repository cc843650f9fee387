"""The command line as a whole: `circuits --help` says what there is.

`root` reads the first word, `run` starts a case, `listings` and `datasets` tell what comes with the package, `completion` makes
scripts for shells, `doctor` looks at the machine. Nothing heavy is imported before it is needed.
"""

from circuits.command.root import main

__all__ = ["main"]
