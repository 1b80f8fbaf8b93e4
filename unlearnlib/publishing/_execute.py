"""Execute one prepared notebook in a process of its own.

The runner starts this file as a script, `python -P _execute.py job.json`, so that a run does not import the library
beside the kernel. Progress goes to stdout as lines of JSON behind a mark; the last line says how the run ended.
"""

import json
import os
import signal
import sys
import threading

MARK = "@run "


def say(**message: object) -> None:
    print(MARK + json.dumps(message), flush=True)


def stop_with_the_runner() -> None:
    """The runner holds the other end of stdin; when it closes, by its will or its death, so does this run."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


def main(path: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    threading.Thread(target=stop_with_the_runner, daemon=True).start()
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    # Where it is installed, this optional part of jsonschema compiles a grammar for two seconds at import.
    sys.modules.setdefault("rfc3987_syntax", None)
    from papermill import execute_notebook
    from papermill.engines import NBClientEngine, papermill_engines

    place = {"cell": 0, "cells": 0}

    class Reporting(NBClientEngine):
        """The standard engine, which also says which cell it has reached."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options):
            filled = [i for i, cell in enumerate(nb_man.nb.cells) if cell.cell_type == "code" and cell.source.strip()]
            place["cells"], start = len(filled), nb_man.cell_start

            def cell_start(cell, cell_index=None, **more):
                if cell_index in filled:
                    place["cell"] = filled.index(cell_index) + 1
                    say(**place)
                start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("reporting", Reporting)
    try:
        execute_notebook(
            job["input"],
            job["output"],
            job["parameters"],
            engine_name="reporting",
            progress_bar=False,
            cwd=job["folder"],
            execution_timeout=job["timeout"],
        )
    except Exception as error:  # whatever ends a run is reported to the runner, which names the page
        kind, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
        lines = text.strip().splitlines()
        say(**place, failed=f"{kind}: {lines[-1].strip()}" if lines else kind)
    else:
        spent = os.times()  # the kernel has ended and counts as a child
        say(**place, failed=None, cpu=spent.user + spent.system + spent.children_user + spent.children_system)


if __name__ == "__main__":
    main(sys.argv[1])
