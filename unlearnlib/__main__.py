"""The command line: `unlearn COMMAND ...`, or `python -m unlearnlib COMMAND ...`.

A command is one line of the table below. Only the module of the command that is asked for is imported.
"""

import importlib
import sys
from collections.abc import Sequence

from unlearnlib import __version__, _names
from unlearnlib._commands import carried_out, one_line

PROGRAM = "unlearn"
# group -> command -> (module whose `command(arguments)` carries it out, one line of help)
COMMANDS = {
    "the book": {
        "run": ("unlearnlib.publishing.runner", "execute chapters, in place or with other parameters"),
        "grid": ("unlearnlib.publishing.runner", "execute one chapter for every combination of parameter values"),
        "status": ("unlearnlib.publishing.runner", "say which pages are older than their code, and why"),
        "check": ("unlearnlib.publishing.runner", "say what may not be committed"),
        "changed": ("unlearnlib.publishing.review", "list the pages that differ from a commit, and in what"),
        "pages": ("unlearnlib.publishing.runner", "write the pages of claims, status and method cards"),
        "numbers": ("unlearnlib.publishing.numbers", "print the numbers you should get, or compare yours with them"),
    },
    "your own models": {
        "methods": ("unlearnlib.methods.listing", "the table of unlearning methods, as text, CSV or JSON"),
        "forget": ("unlearnlib.desk.commands", "delete examples from a trained model, with a receipt"),
        "queue": ("unlearnlib.desk.commands", "deletion requests that wait, and what became of them"),
        "verify": ("unlearnlib.desk.commands", "check the receipt of a deletion"),
    },
}


def usage() -> str:
    """The page that `unlearn --help` shows."""
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Machine unlearning: its methods, and the book that audits them."]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {name:10s} {about}" for name, (_, about) in commands.items())]
    return "\n".join(
        [
            *lines,
            "",
            f"{PROGRAM} COMMAND --help shows arguments and examples; {PROGRAM} --version the version.",
            "Exit status: 0 all well, 1 a run failed or a page is not as it should be, 2 a wrong request,",
            "130 interrupted, 143 terminated.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name in ("-V", "--version"):
        print(f"{PROGRAM} {__version__}")
        return 0
    known = {command: home for group in COMMANDS.values() for command, (home, _) in group.items()}
    if name not in known:
        print(f"{PROGRAM}: no command {one_line(name, 40)!r}: {_names.hint(name, known, 'there are')}", file=sys.stderr)
        return 2
    return carried_out(lambda: importlib.import_module(known[name]).command([name, *rest]), PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
