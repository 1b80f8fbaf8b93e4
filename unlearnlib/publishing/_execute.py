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
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def say(**message: object) -> None:
    print(MARK + json.dumps(message), flush=True)


def stop_with_the_runner() -> None:
    """The runner holds the other end of stdin; when it closes, by its will or its death, so does this run."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def stop_once(number, frame) -> None:
    """End the run, and its kernel in order: a second Ctrl-C would tear that apart."""
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def in_words(error: Exception, seconds: float | None) -> str:
    """What ended a run, in one line: the kind of the error and the last line of it that says something."""
    kind, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    if kind == "CellTimeoutError":
        return f"the cell took longer than its limit of {seconds} s"
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    last = lines[-1] if lines else ""
    shown = last if len(last) <= 500 else f"{last[:500]}... ({len(last)} characters)"
    return f"{kind}: {shown}" if shown else kind


def main(path: str) -> None:
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and a shell's background jobs, ignore one
            signal.signal(number, stop_once)
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
        say(**place, failed=in_words(error, job["timeout"]))
    else:
        spent = os.times()  # the kernel has ended and counts as a child
        say(**place, failed=None, cpu=spent.user + spent.system + spent.children_user + spent.children_system)


if __name__ == "__main__":
    main(sys.argv[1])
