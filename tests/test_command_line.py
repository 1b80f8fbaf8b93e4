"""The program `unlearn`: light, told by its help, and with one line for whatever is wrong."""

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import unlearnlib
from unlearnlib import __main__ as program
from unlearnlib._commands import Parser
from unlearnlib.methods import listing, registry
from unlearnlib.publishing import parameters, runner
from unlearnlib.publishing.execution import defaults_of
from unlearnlib.publishing.sweeps import target_of

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [name for group in program.COMMANDS.values() for name in group]


def shown(capsys, *arguments: str) -> str:
    """What a command prints before it ends well."""
    try:
        status = program.main(list(arguments))
    except SystemExit as end:
        status = end.code
    assert status == 0
    return capsys.readouterr().out


def refused(capsys, *arguments: str) -> str:
    try:
        status = program.main(list(arguments))
    except SystemExit as end:
        status = end.code
    told = capsys.readouterr().err
    assert status == 2 and told.count("\n") == 1 and len(told) < 700, told
    return told


def python(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["methods"], ["methods", "--help"]])
def test_help_and_the_table_of_methods_are_light(arguments):
    code = f"""if True:
        import sys
        from unlearnlib.__main__ import main
        try:
            main({arguments!r})
        except SystemExit:
            pass
        heavy = ("torch", "numpy", "pandas", "nbformat", "papermill", "yaml", "unlearnlib.publishing")
        print([name for name in heavy if name in sys.modules])"""
    assert python(code).splitlines()[-1] == "[]"


def test_help_lists_every_command_and_is_what_no_argument_shows(capsys):
    page = shown(capsys, "--help")
    assert all(re.search(rf"^  {name} +\S", page, re.MULTILINE) for name in COMMANDS)
    assert shown(capsys) == page == shown(capsys, "help")
    assert shown(capsys, "--version") == f"unlearn {unlearnlib.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_page_with_examples_and_exit_statuses(capsys, name):
    page = shown(capsys, name, "--help")
    assert page.startswith(f"usage: unlearn {name} ") and "examples:" in page and "exit status: 0 " in page


def examples() -> list[list[str]]:
    pages = [runner._RUN, runner._GRID, runner._STATUS, runner._CHECK, runner._PAGES, listing._PAGE]
    lines = re.sub(r"\\\n\s*", "", "\n".join(pages)).splitlines()
    return [shlex.split(re.split(r"\s{3,}", line.strip())[0]) for line in lines if line.startswith("  unlearn ")]


@pytest.mark.parametrize("words", examples(), ids=lambda words: " ".join(words[1:4]))
def test_the_examples_of_the_help_are_valid(words, monkeypatch):
    """Commands, options, notebooks, parameters and values: all but the run itself."""
    monkeypatch.chdir(ROOT)
    if words[1] == "methods":
        assert listing.command(words[1:]) == 0
        return
    args = runner._parser(words[1]).parse_args(words[2:])
    named = [args.notebook] if words[1] == "grid" else getattr(args, "notebooks", [])
    for notebook in named:
        if "*" not in notebook:
            given = {name: [text] for name, text in getattr(args, "parameter", [])}
            given |= {name: values for name, *values in getattr(args, "grid", [])}
            defaults = defaults_of(notebook)
            for name, values in given.items():
                parameters.check_name(name, defaults)
                for value in values:
                    parameters.check(defaults, {name: parameters.parse(value, defaults[name])})
            if getattr(args, "output", None):
                target_of(args.output, notebook, defaults)


@pytest.mark.parametrize("number", ["-1e-05", "-1E5", "-.5", "-1", "-1_000", "-0x1f", "-inf", "-nan", "-1.e-3"])
def test_negative_numbers_are_values(number):
    parsed = runner._parser("run").parse_args(["a.ipynb", "-p", "lr", number, "-o", "runs", "--jobs", "2"])
    assert parsed.parameter == [["lr", number]] and parsed.output == "runs" and parsed.jobs == 2
    parsed = runner._parser("grid").parse_args(["a.ipynb", "-g", "lr", number, ".5", "-g", "n", "1", "-o", "x"])
    assert parsed.grid == [["lr", number, ".5"], ["n", "1"]]


def test_options_are_still_options():
    parser = Parser(prog="x")
    parser.add_argument("-i", "--inside", action="store_true")
    parser.add_argument("words", nargs="*")
    assert parser.parse_args(["-i", "-1e5"]).words == ["-1e5"] and parser.parse_args(["-i"]).inside
    with pytest.raises(SystemExit):
        parser.parse_args(["--ins"])  # no abbreviations: a later option must not change what a script means


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grit"], "no command 'grit': did you mean 'grid'?"),
        (["x" * 10**5], "there are run, grid, status, check, changed, pages, numbers, methods"),
        (["run"], "the following arguments are required: NOTEBOOK"),
        (["run", "a.ipynb", "-o", "runs", "-p", "lr"], "expected 2 arguments"),
        (["run", "a.ipynb", "--in-place", "--jobs", "two"], "invalid int value: 'two'"),
        (["run", "a.ipynb", "--in-place", "--timeout", "0"], "no whole number of seconds above 0"),
        (["run", "a.ipynb", "--in-place", "--timeout", "9" * 5000], "no whole number of seconds above 0"),
        (["run", "a.ipynb", "--in-place"], "a.ipynb: no such notebook"),
        (["run", "notebooks/01-what-is-forgetting.ipynb", "--in-place", "--jobs", "0"], "workers must be at least 1"),
        (["run", "x" * 10**5, "-o", "runs"], "(100"),
        (["check", "\udc80.ipynb"], "no such notebook"),
        (["methods", "--family", "curvatur"], "no method has family 'curvatur': there are attribution; curvature; "),
        (["methods", "--format", "xml"], "invalid choice: 'xml'"),
    ],
)
def test_a_wrong_request_is_one_line(capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    assert message in refused(capsys, *arguments)


# --- methods


def test_the_listed_methods_are_the_registered_ones():
    rows, table = listing.declared(), registry.methods()
    assert [row["name"] for row in rows] == table["name"].tolist()
    for row in rows:
        found = registry.find(row["name"])
        assert row == {column: getattr(found, column) for column in listing.COLUMNS}


def test_methods_are_chosen_by_family_sets_and_guarantee(capsys):
    assert shown(capsys, "methods", "--guarantee", "exact", "--format", "json").count('"name"') == 1
    either = [shown(capsys, "methods", "--reads", sets) for sets in ("retain, forget", "forget,retain")]
    assert either[0] == either[1] and "scrub" in either[0] and "neggrad " not in either[0]
    only = json.loads(shown(capsys, "methods", "--reads", "forget", "--family", "distillation", "--format", "json"))
    assert only and {(row["reads"], row["family"]) for row in only} == {("forget", "distillation")}
    assert program.main(["methods", "--guarantee", "exact", "--family", "saliency"]) == 1


def test_the_table_is_text_csv_and_json(capsys):
    rows = listing.declared()
    assert json.loads(shown(capsys, "methods", "--format", "json")) == rows
    assert list(csv.DictReader(io.StringIO(shown(capsys, "methods", "--format", "csv")))) == rows
    text = shown(capsys, "methods").splitlines()
    assert len(text) == len(rows) + 1 and text[0].split() == list(listing.COLUMNS)


def test_output_that_nobody_reads_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m unlearnlib methods | true", shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == ""


# --- old names


@pytest.mark.parametrize("old", ["unlearnlib.runner", "unlearnlib.publishing.runner"])
def test_the_old_commands_work_for_one_version(old):
    call = [sys.executable, "-m", old, "status", "notebooks/none.ipynb"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    *warned, last = done.stderr.splitlines()
    assert done.returncode == 2 and last == "unlearn: notebooks/none.ipynb: no such notebook"
    assert len(warned) == (old == "unlearnlib.runner") and all(
        "is now the program `unlearn`" in line for line in warned
    )
