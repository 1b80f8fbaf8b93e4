"""A grid of runs: an executed notebook for every combination of parameter values, and one table of their records."""

import io
import itertools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unlearnlib.publishing import notebooks, parameters
from unlearnlib.publishing.execution import Job, RunReport, defaults_of, run_many
from unlearnlib.publishing.outputs import beside, reason


def target_of(template: str, notebook: str, values: Mapping[str, object]) -> str:
    """Where a run is written: `template` is a folder, or a path to an .ipynb with {parameter} fields.

    Raises ValueError if it is empty, or a field is no parameter of the page.
    """
    if not template.strip():
        raise ValueError("the output is an empty text: name a folder, or a path to an .ipynb")
    if not template.endswith(".ipynb"):
        return f"{template.rstrip('/')}/{Path(notebook).name}"
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"the output {template!r} has unbalanced braces: {error}") from None
    for name in fields:
        parameters.check_name(name, values)
    # A value such as "class:3" or "folder:/a/b" must not make folders.
    shown = {name: re.sub(r"[^\w.,=+-]+", "-", parameters.spell(values[name])).strip("-") for name in fields}
    return template.format(**shown)


def grid(
    notebook: str,
    axes: Mapping[str, Sequence[object]],
    output: str,
    given: Mapping[str, object] | None = None,
    *,
    workers: int = 1,
    fast: bool = False,
    force: bool = False,
    timeout: int | None = None,
    say: Callable[[str], None] = print,
) -> list[RunReport]:
    """Run a notebook for every combination of parameter values; an interrupted grid resumes.

    axes        parameter -> values,  given  parameters that stay the same
    output      a path with {parameter} fields, local or in a store
    fast, force, timeout     as in `Job`

    What the runs `record` is collected, with the grid's parameters as first columns, in NAME-records.csv in the
    folder before the first field of `output`.
    """
    defaults, twice = defaults_of(notebook), set(axes) & set(given or {})
    if twice or not all(axes.values()):
        raise ValueError("a parameter is either fixed or has values in the grid: see " + ", ".join(twice or axes))
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    jobs = []
    for combination in combinations:
        passed = {**(given or {}), **combination}
        where = target_of(output, notebook, parameters.check(defaults, passed))
        jobs.append(Job(notebook, where, passed, fast, force, timeout))
    reports = run_many(jobs, workers, say)
    _collect(notebook, output, combinations, reports, say)
    return reports


def _collect(notebook: str, output: str, combinations: list[dict], reports: list[RunReport], say) -> None:
    import pandas as pd

    frames = []
    for combination, report in zip(combinations, reports, strict=True):
        rows = None if report.status == "failed" else notebooks.fetch(beside(report.output, ".csv"))
        if rows is not None:
            frame = pd.read_csv(io.StringIO(rows))
            extra = {name: value for name, value in combination.items() if name not in frame}
            told = {name: [value] * len(frame) for name, value in extra.items()}  # a value may be a list
            frames.append(pd.concat([pd.DataFrame(told), frame], axis=1))
    if frames:
        folder = output.partition("{")[0].rpartition("/")[0]
        where = f"{folder or '.'}/{Path(notebook).stem}-records.csv"
        table = pd.concat(frames, ignore_index=True).to_csv(index=False, lineterminator="\n")
        try:
            notebooks.put(where, table)
        except Exception as error:  # the pages and their own records are there
            say(f"records of {len(frames)} of {len(reports)} runs could not be written to {where}: {reason(error)}")
        else:
            say(f"records of {len(frames)} of {len(reports)} runs -> {where}")
