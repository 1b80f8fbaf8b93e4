"""What a notebook says about itself: its numerics, its parameters, its claims, and how to make it again.

    from unlearnlib import bookkeeping; bookkeeping.pin_numerics()     the first cell
    seed, epochs = ...                                                 the `parameters` cell
    bookkeeping.begin("sharded-training")                              the cell after it
    bookkeeping.claim("...", holds, evidence="...")                    anywhere
    bookkeeping.reproduce(datasets=[ds])                               the last cell

All output is static, free of times and machine paths, and the same for every run.
"""

import hashlib
import html
import logging
import os
import platform
import re
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unlearnlib._extras import optional
from unlearnlib.publishing import parameters
from unlearnlib.publishing.tables import estimate, render
from unlearnlib.store import digests

__all__ = ["PINS", "begin", "claim", "estimate", "pin_numerics", "record", "reproduce", "table"]

# With one thread these give the same bits on every x86-64 CPU that has AVX2.
PINS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# set by the runner
FAST, OUTPUT, RECORDS, NOTES = "UNLEARN_FAST", "UNLEARN_OUTPUT", "UNLEARN_RECORDS", "UNLEARN_NOTES"
EXECUTORS = "PAPERMILL_"  # what `papermill --inject-paths` adds to the parameters
_VERDICTS = {True: "holds", False: "fails", None: "open"}


@dataclass
class _Page:
    """The session of one notebook: a kernel runs one page, so there is one."""

    mode: str = "unpinned"
    sources: list[str] = field(default_factory=list)  # cells that ran between `pin_numerics` and `begin`
    chapter: str | None = None
    defaults: Mapping[str, object] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)


_page = _Page()


def pin_numerics(fast: bool | None = None) -> None:
    """Make torch compute the same bits on every x86-64 CPU with AVX2: one thread and no wider instructions.

    To be called before the first tensor operation: torch chooses its instructions once. `fast=True` leaves all
    threads and instructions as they are; None asks the environment (`UNLEARN_FAST=1`). Raises RuntimeError if
    it comes too late, warns if the CPU has no AVX2.
    """
    fast = os.environ.get(FAST) == "1" if fast is None else fast
    if not fast:  # first of all: numpy and torch read it when they are imported, and drawing imports numpy
        os.environ.update({**PINS, **ONE_THREAD})
    shell = _shell()
    if shell and getattr(shell, "kernel", None):
        _set_image_format(shell)
        _watch(shell)
    _warn_outside_the_page()
    if fast:
        _page.mode = "fast"
        return
    import torch
    from threadpoolctl import threadpool_limits

    from unlearnlib.store import products

    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy has read its environment already
    chosen = torch.backends.cpu.get_cpu_capability()
    if chosen.startswith("AVX512"):
        raise RuntimeError("torch has computed already: restart and call pin_numerics() before the first tensor")
    if chosen != "AVX2":
        warnings.warn(f"this CPU offers {chosen}, not AVX2: last digits will differ from the book", stacklevel=2)
    else:
        products.use()
        os.environ[products.WANTED] = "1"  # worker processes follow
    _page.mode = "pinned"


def _warn_outside_the_page() -> None:
    """What the library warns of, such as a full disk, is the machine's and not the page's: the runner tells it."""
    library = logging.getLogger("unlearnlib")
    if os.environ.get(NOTES) and not any(isinstance(h, logging.FileHandler) for h in library.handlers):
        library.addHandler(logging.FileHandler(os.environ[NOTES], encoding="utf-8", delay=True))


def _set_image_format(shell) -> None:
    """Figures as PNG, whatever MPLBACKEND says, in the two forms that a page shows and with their data."""
    shell.enable_matplotlib("inline")
    from unlearnlib.publishing.figures import shown

    figure = optional("matplotlib.figure").Figure
    shell.display_formatter.formatters["image/png"].for_type(figure, shown.bundle)


def _watch(shell) -> None:
    """Note the sources of the cells that follow: some executors (nbval) leave nothing in the session's history."""
    if _note_source not in shell.events.callbacks["pre_run_cell"]:
        shell.events.register("pre_run_cell", _note_source)
    _page.chapter, _page.sources = None, []


def _note_source(info) -> None:
    if _page.chapter is None:
        _page.sources.append(info.raw_cell or "")


def _shell():
    """The running IPython shell, or None."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


def begin(chapter: str) -> None:
    """Take note of the parameters, and refuse any that the page does not declare. Shows nothing.

    chapter     the notebook's file name without its suffix

    The sources of the cells that ran so far are known to the session, so this holds under plain papermill too, which
    only logs a warning. Raises ValueError naming the nearest valid name, or the type that a value should have.
    """
    if not re.fullmatch(r"[a-z0-9-]+", chapter):
        raise ValueError(f"chapter is the notebook's file name in lower case with hyphens, not {chapter!r}")
    shell = _shell()
    _page.chapter, _page.defaults, _page.values = chapter, {}, {}
    if shell is None:
        return
    history = _page.sources or list(shell.user_ns.get("In", []))
    if not any(source.strip() for source in history):
        return  # an executor without history, on a page that does not pin its numerics: nothing is known
    place = next((i for i, source in enumerate(history) if parameters.is_declaration(source)), None)
    if place is None:
        raise ValueError("begin() must come after the parameters cell: at most ten assignments of plain literals")
    defaults = parameters.declared(history[place])
    following = history[place + 1] if place + 1 < len(history) else ""
    for name in parameters.names_in(following) if following.startswith(parameters.INJECTED) else []:
        if not name.startswith(EXECUTORS):
            parameters.check_name(name, defaults)
    given = {name: shell.user_ns[name] for name in defaults if name in shell.user_ns}
    _page.defaults, _page.values = defaults, parameters.check(defaults, given)


def _show(bundle: Mapping[str, str], noted: Mapping[str, object] | None = None) -> None:
    """Display one output in all its forms; outside a notebook, print its text."""
    if _shell() is None:
        print(bundle["text/plain"])
        return
    from IPython.display import display

    display(dict(bundle), raw=True, metadata={"unlearnlib": dict(noted)} if noted else {})


def _one_line(text: object, name: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{name} of a claim must be text, not {text!r}")
    return " ".join(text.split())


def claim(text: str, holds: bool | None, evidence: str = "") -> None:
    """Show a sentence with its verdict and record it: `[holds]`, `[fails]`, or `[open]` where it cannot be tested.

    holds       the outcome of a test (bool or numpy bool), None for a claim that these parameters cannot decide
    evidence    numbers behind the verdict, at the precision that the seeds justify

    A claim that fails is shown, never raised. Validation compares sentence and verdict, not the evidence.
    """
    if type(holds).__module__ == "numpy" and type(holds).__name__ in ("bool", "bool_"):
        holds = bool(holds)
    if holds is not None and not isinstance(holds, bool):
        raise ValueError(f"a claim holds (True), fails (False) or is open (None), it cannot be {holds!r}")
    text, evidence = _one_line(text, "text"), _one_line(evidence, "evidence")
    if not text:
        raise ValueError("a claim needs a sentence")
    verdict = _VERDICTS[holds]
    plain = f"[{verdict}] {text}" + (f" -- evidence: {evidence}" if evidence else "")
    behind = f' <span class="claim-evidence">{html.escape(evidence)}</span>' if evidence else ""
    page = (
        f'<div class="claim claim-{verdict}" id="{claim_anchor(text)}">'
        f'<strong class="claim-verdict">{verdict}</strong> '
        f'<span class="claim-text">{html.escape(text)}</span>{behind}</div>'
    )
    noted = {"claim": {"text": text, "verdict": verdict, "evidence": evidence}}
    _show({"text/plain": plain, "text/html": page}, noted)


def claim_anchor(text: str) -> str:
    """The claim's place on its page; it moves only when the sentence changes."""
    return f"claim-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def table(frame, digits: int | Mapping[str, int] | None = None, caption: str = "", lead: Sequence[str] = ()) -> None:
    """Show a DataFrame as a static, accessible table; see `tables.render` for the arguments."""
    _show(render(frame, digits, caption, lead))


def record(frame) -> None:
    """Keep a DataFrame of results beside the executed notebook; calls add rows.

    The runner names the file (NAME.csv beside NAME.ipynb, in `UNLEARN_RECORDS` while it runs) and a grid of runs
    collects them. A page that is executed in place, or without the runner, keeps nothing.
    """
    path = os.environ.get(RECORDS)
    if not path:
        return
    import pandas as pd

    earlier = [pd.read_csv(path)] if os.path.exists(path) else []
    pd.concat([*earlier, frame], ignore_index=True).to_csv(path, index=False, lineterminator="\n")


def reproduce(datasets: Sequence = ()) -> None:
    """Show how to make this page again: commands, parameters, seeds, versions, data. The last cell of a page.

    datasets    the `data.Dataset` objects that the page read

    Its output carries the provenance that the runner turns into the page's fingerprint. Raises ValueError if `begin`
    was not called.
    """
    if _page.chapter is None:
        raise ValueError("reproduce() needs the page's name: call begin(...) after the parameters cell")
    data = {ds.name: ds.checksum() for ds in datasets}
    told = {
        "chapter": _page.chapter,
        "parameters": dict(_page.values),
        "modules": digests.imported_modules(),
        "data": data,
        "mode": _page.mode,
    }
    facts = _facts(data)
    source = f"notebooks/{_page.chapter}.ipynb"
    changed = _page.values != _page.defaults
    output = os.environ.get(OUTPUT) or (f"runs/{_page.chapter}.ipynb" if changed else source)
    runner, papermill = commands(source, output, _page.defaults, _page.values, _page.mode == "fast")
    lines = [f"{name}: {value}" for name, value in facts]
    shown = ", ".join(f"{name} = {value!r}" for name, value in _page.values.items())
    plain = "\n".join(["Reproduce this page", runner, papermill, f"parameters: {shown or 'none'}", *lines])
    listed = "\n".join(f"- {line}" for line in [f"parameters: {shown or 'none'}", *lines])
    markdown = f"**Reproduce this page**\n\n```bash\n{runner}\n```\n\nor\n\n```bash\n{papermill}\n```\n\n{listed}"
    _show(
        {"text/plain": plain, "text/markdown": markdown, "text/html": _box(runner, papermill, facts)},
        {"provenance": told},
    )


def commands(source: str, output: str, defaults: Mapping, values: Mapping, fast: bool) -> tuple[str, str]:
    """The command of the runner, and of plain papermill, that make `output` from `source` with these values."""
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    arguments = [word for name, value in changed.items() for word in ("-p", name, parameters.spell(value))]
    where = ["--in-place"] if output == source else ["-o", output]
    call = [".venv/bin/unlearn", "run", source, *arguments, *where]
    runner = shlex.join([*call, "--fast"] if fast else call)
    # Plain papermill leaves its traces in what it writes, so it is never pointed at the committed page.
    target = f"runs/{Path(source).name}" if output == source else output
    folder = str(Path(source).parent)
    plain = [".venv/bin/papermill", source, target, "--cwd", folder, *parameters.papermill_arguments(changed)]
    made = "" if "://" in target else f"mkdir -p {shlex.quote(str(Path(target).parent))} && "
    return runner, f"{made}{f'{FAST}=1 ' if fast else ''}{shlex.join(plain)}"


def is_seed(name: str) -> bool:
    """Whether a parameter is a seed, or their number, by its name: seed, seeds, n_seeds, seed_train, ..."""
    return re.search(r"(^|_)seeds?(_|$)", name) is not None


def _facts(data: Mapping[str, str]) -> list[tuple[str, str]]:
    seeds = [f"{name} = {value!r}" for name, value in _page.values.items() if is_seed(name)]
    library = getattr(sys.modules.get("unlearnlib"), "__version__", "source tree")
    installed = " ".join(f"{name} {version}" for name, version in digests.versions().items())
    python = ".".join(platform.python_version_tuple()[:2])
    numerics = {
        "pinned": "pinned: one thread, AVX2 (the same bits on any x86-64 CPU with AVX2)",
        "fast": "fast: all threads and instructions of the machine; digits depend on it",
        "unpinned": "not pinned",
    }
    return [
        ("seeds", ", ".join(seeds) or "fixed in the cells"),
        ("numerics", numerics[_page.mode]),
        ("versions", f"python {python} {installed} unlearnlib {library}"),
        ("data", ", ".join(f"{name} sha256 {checksum[:12]}" for name, checksum in data.items()) or "none read"),
    ]


def _box(runner: str, papermill: str, facts: Sequence[tuple[str, str]]) -> str:
    def pre(command: str) -> str:
        return f'<div class="highlight"><pre>{html.escape(command)}</pre></div>'

    def rows(pairs: Sequence[tuple[str, object]]) -> str:
        cell = '<tr><th scope="row">{}</th><td>{}</td></tr>'
        return "".join(cell.format(html.escape(str(name)), html.escape(str(value))) for name, value in pairs)

    mark = {name: value != _page.defaults[name] for name, value in _page.values.items()}
    values = [(n, f"{v!r} (default {_page.defaults[n]!r})" if mark[n] else repr(v)) for n, v in _page.values.items()]
    parts = [
        '<div class="reproduce" role="region" aria-label="Reproduce this page">',
        '<p class="reproduce-title">Reproduce this page</p>',
        pre(runner),
        "<p>or, with plain papermill,</p>",
        pre(papermill),
        f'<table class="dataframe"><caption>Parameters</caption><tbody>{rows(values)}</tbody></table>'
        if values
        else "",
        f'<table class="dataframe"><caption>Provenance</caption><tbody>{rows(facts)}</tbody></table>',
        f'<p>Minutes on a CPU, and whether code or data have changed since: <a href="{_status_page()}">status</a>.</p>',
        "</div>",
    ]
    return "\n".join(part for part in parts if part)


def _status_page() -> str:
    """The book's status page, seen from the page that is being made."""
    output = os.environ.get(OUTPUT) or ""
    folder = "notebooks" if not output or "://" in output else Path(output).parent
    return Path(os.path.relpath("book/generated/status.html", folder)).as_posix()
