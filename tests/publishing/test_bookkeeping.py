"""What a notebook says about itself: claims, tables, parameters, pinned numerics."""

import html.parser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import IPython.display
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnlib.publishing import bookkeeping, parameters, tables

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def session(monkeypatch):
    """A stand-in for a notebook session: `session(cells)` says which cells have run; outputs gather in `.shown`."""
    shown = []
    shell = SimpleNamespace(user_ns={"In": [""]}, kernel=None)
    monkeypatch.setattr(bookkeeping, "_shell", lambda: shell)
    monkeypatch.setattr(bookkeeping, "_page", bookkeeping._Page())
    monkeypatch.setattr(IPython.display, "display", lambda data, raw, metadata: shown.append((data, metadata)))

    def ran(*cells):
        shell.user_ns = {"In": ["", *cells]}
        for cell in cells:
            if not cell.startswith(("import", "from", "bookkeeping")):
                exec(cell, shell.user_ns)

    ran.shown = shown
    return ran


class _Texts(html.parser.HTMLParser):
    """Tags in order, and the text between them."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


# Estimates and tables.


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ((0.91234, 0.905, 0.919), "0.912 ± 0.007"),
        ((0.5, 0.1, 0.9), "0.50 ± 0.40"),
        ((0.5, 0.45, 0.5496), "0.50 ± 0.05"),  # the width 0.0996 counts as 0.10
        ((1234.5, 1000.4, 1460.2), "1230 ± 230"),  # sides of 234 and 226: the larger stands for both
        ((-0.0001, -0.02, 0.02), "0.000 ± 0.020"),  # no minus zero
        ((0.98, 0.86, 1.0), "0.98 +0.02 -0.12"),
        ((1.0, 0.9966, 1.0), "1.0000 +0.0000 -0.0034"),
        ((3.14159, 2.9, np.inf), "3.14 +inf -0.24"),
        ((0.25, 0.25, 0.25), "0.2500 ± 0.0000"),
        ((0.5, float("nan"), 1), "0.500 ± n/a"),
        ((float("nan"), 0, 1), "n/a"),
    ],
)
def test_an_estimate_has_the_digits_of_its_interval(numbers, shown):
    assert bookkeeping.estimate(*numbers) == shown


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e5), st.floats(1e-9, 1e5))
@settings(max_examples=100, deadline=None)
def test_an_estimate_covers_its_interval_and_little_more(value, below, above):
    low, high = value - below, value + above
    if high - low <= 1e-6 * abs(value):  # rounding of single precision, shown as none
        return
    shown, *sides = bookkeeping.estimate(value, low, high).replace("± ", "±").split()
    up, down = (float(sides[0][1:]),) * 2 if len(sides) == 1 else (float(sides[0]), -float(sides[1]))
    step = (high - low) / 9.9  # a unit of the last digit, at most
    assert abs(float(shown) - value) <= step / 2 * 1.01
    assert below - step <= down <= below * 1.25 + step * 2 and above - step <= up <= above * 1.25 + step * 2
    if len(sides) == 2:
        assert max(above, below) > 1.25 * min(above, below)


def column_of(*estimates):
    """The cells of a table of (value, half-width), as they are shown."""
    frame = pd.DataFrame([(v, v - h, v + h) for v, h in estimates], columns=["x", "x_low", "x_high"])
    return tables.render(frame)["text/plain"].splitlines()[1:]


@pytest.mark.parametrize(
    ("estimates", "shown"),
    [
        # accuracies in per cent, three of them from few runs: nobody has to read 95 ± 1
        (((94.63, 0.6), (71.9, 13), (82.6, 10)), ["94.6 ± 0.6", "71.9 ± 13.0", "82.6 ± 10.0"]),
        # a table of quantities: each has a unit of its own
        (((1234.0, 230), (0.9531, 0.004), (2.31, 0.11)), ["1230 ± 230", "0.953 ± 0.004", "2.310 ± 0.110"]),
        # one ruined run does not take a digit from the others, nor gets digits that it has not
        (((0.945, 0.006), (0.931, 0.007), (0.31, 0.6)), ["0.945 ± 0.006", "0.931 ± 0.007", "0.3 ± 0.6"]),
        # what is known exactly follows its column; what is nearly zero does not ask for seven decimals
        (((1.0, 0.0), (0.945, 0.006)), ["1.000 ± 0.000", "0.945 ± 0.006"]),
        (((0.992, 0.002), (0.97, 0.004), (1e-6, 1e-6)), ["0.992 ± 0.002", "0.970 ± 0.004", "0.0000 ± 0.0000"]),
        # a digit less where it changes little, and not where it does
        (((0.935, 0.0069), (0.937, 0.0041), (0.93, 0.014)), ["0.935 ± 0.007", "0.937 ± 0.004", "0.930 ± 0.014"]),
        (((0.935, 0.0069), (0.9371, 9e-5), (0.93, 0.014)), ["0.935 ± 0.007", "0.9371 ± 0.0001", "0.930 ± 0.014"]),
        (((0.5, 1e-17), (0.5, 0.0)), ["0.5000 ± 0.0000", "0.5000 ± 0.0000"]),
    ],
)
def test_estimates_share_decimals_where_their_scale_is_one_and_keep_their_own_where_not(estimates, shown):
    assert [cell.strip() for cell in column_of(*estimates)] == shown


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_rounding_in_a_column_changes_a_half_width_by_a_quarter_at_most_and_adds_one_digit_at_most(estimates):
    triples = [(v, v - h, v + h) for v, h in estimates]
    for (_, half), decimals in zip(estimates, tables.shared_decimals(triples), strict=True):
        unit = 10.0**-decimals
        assert unit / 2 <= 0.2501 * half or decimals == 4
        assert unit >= half / 500


def test_the_leading_columns_of_a_wide_table_are_named_in_it_and_must_exist():
    frame = pd.DataFrame({"a": [1], "b": [2]})
    assert 'data-lead="b|a"' in tables.render(frame, lead=["b", "a"])["text/html"]
    assert "data-lead" not in tables.render(frame)["text/html"]
    with pytest.raises(ValueError, match="lead names 'c'"):
        tables.render(frame, lead=["c"])


def test_an_interval_the_wrong_way_round_is_refused():
    with pytest.raises(ValueError, match="from low to high"):
        bookkeeping.estimate(0.5, 0.6, 0.4)


def test_a_table_joins_values_with_their_intervals_and_escapes_text():
    frame = pd.DataFrame(
        {"method": ["a<b", "c"], "value": [0.9123, np.nan], "ci_lo": [0.905, 0.1], "ci_hi": [0.919, 0.2], "n": [3, 12]}
    )
    shown = tables.render(frame, caption="Accuracy & more")
    page = _Texts(shown["text/html"])
    cells = [tag for tag in page.tags if tag[0] in ("th", "td")]
    assert [(tag, a.get("scope")) for tag, a in cells] == [("th", "col")] * 3 + [
        ("th", "row"),
        ("td", None),
        ("td", None),
    ] * 2
    texts = [t for t in page.texts if t.strip()]
    assert texts == ["Accuracy & more", "method", "value", "n", "a<b", "0.912 ± 0.007", "3", "c", "n/a", "12"]
    assert "a<b" not in shown["text/html"]
    assert shown["text/plain"].splitlines()[2].split() == ["a<b", "0.912", "±", "0.007", "3"]


def test_a_table_shows_named_indices_as_row_headers_and_refuses_nameless_ones():
    frame = pd.DataFrame({"x": [1.0, 22.5]}, index=pd.Index(["a", "b"], name="method"))
    headers = [a["scope"] for tag, a in _Texts(tables.render(frame)["text/html"]).tags if tag == "th"]
    assert headers == ["col", "col", "row", "row"]
    with pytest.raises(ValueError, match="name the index"):
        tables.render(frame.rename_axis(None))
    with pytest.raises(ValueError, match="digits names 'y'"):
        tables.render(frame, digits={"y": 2})


def test_a_column_of_floats_shares_its_decimals():
    shown = tables.render(pd.DataFrame({"x": [0.5, 12.345], "ok": [True, False], "note": ["p", None]}))["text/plain"]
    assert [line.split() for line in shown.splitlines()[1:]] == [["0.5", "yes", "p"], ["12.3", "no", "n/a"]]
    assert "12.35" in tables.render(pd.DataFrame({"x": [12.3456]}), digits=2)["text/plain"]


def test_a_float_that_would_read_as_zero_has_digits_of_its_own_unless_they_are_fixed():
    frame = pd.DataFrame({"x": [126.4, 0.0031, 0.0, 2e-9]})
    assert [line.strip() for line in tables.render(frame)["text/plain"].splitlines()[1:]] == ["126", "0.0031", "0", "0"]
    fixed = tables.render(frame, digits=2)["text/plain"].splitlines()[1:]
    assert [line.strip() for line in fixed] == ["126.40", "0.00", "0.00", "0.00"]


def test_an_input_frame_is_not_changed():
    frame = pd.DataFrame({"acc": [0.5], "acc_low": [0.4], "acc_high": [0.6]})
    before = frame.copy()
    tables.render(frame)
    pd.testing.assert_frame_equal(frame, before)


# Claims.


@pytest.mark.parametrize(
    ("holds", "verdict"), [(True, "holds"), (np.bool_(True), "holds"), (np.bool_(False), "fails"), (None, "open")]
)
def test_a_claim_shows_and_records_its_verdict(session, holds, verdict):
    bookkeeping.claim("x < y & z", holds, evidence="0.1 <\n 0.2")
    data, metadata = session.shown[0]
    assert data["text/plain"] == f"[{verdict}] x < y & z -- evidence: 0.1 < 0.2"
    page = _Texts(data["text/html"])
    assert page.tags[0][1]["class"] == f"claim claim-{verdict}"
    assert [t for t in page.texts if t.strip()] == [verdict, "x < y & z", "0.1 < 0.2"]
    assert metadata == {"unlearnlib": {"claim": {"text": "x < y & z", "verdict": verdict, "evidence": "0.1 < 0.2"}}}


@pytest.mark.parametrize("holds", [1, 0.7, "yes", np.array([True])])
def test_only_a_truth_value_is_a_verdict(session, holds):
    with pytest.raises(ValueError, match="holds"):
        bookkeeping.claim("x", holds)


def test_sanitising_hides_the_evidence_and_keeps_the_verdict(session):
    source = (ROOT / "tests" / "nbval-sanitize.cfg").read_bytes().decode("ascii")
    patterns = re.findall("^regex: (.*)$\n^replace: (.*)$", source, flags=re.MULTILINE)  # as nbval reads it

    def compared(holds, evidence):
        bookkeeping.claim("It forgets", holds, evidence)
        texts = dict(session.shown[-1][0])
        for regex, replacement in patterns:
            texts = {mime: re.sub(regex, replacement, text) for mime, text in texts.items()}
        return texts

    assert compared(True, "0.912 & more") == compared(True, "0.913 <")
    assert compared(True, "0.9")["text/plain"] != compared(False, "0.9")["text/plain"]
    assert compared(True, "0.9")["text/html"] != compared(False, "0.9")["text/html"]


# Parameters.

DECLARED = 'seed = 0\nlr: float = 0.1  # step size\ndataset = "digits"\nwide = False\nsizes = [1, 2]'


def test_begin_takes_note_of_parameters_and_their_injected_values(session):
    session("from x import y", DECLARED, "# Parameters\nseed = 3\nlr = 1\n", "bookkeeping.begin('p')")
    bookkeeping.begin("p")
    assert session.shown == []
    assert bookkeeping._page.defaults["seed"] == 0
    assert bookkeeping._page.values == {"seed": 3, "lr": 1.0, "dataset": "digits", "wide": False, "sizes": [1, 2]}


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("sed = 3", "did you mean 'seed'"),
        ("learning_rate = float('nan')", "unknown parameter 'learning_rate'"),
        ("seed = 0.5", "seed must be int like its default 0, not 0.5"),
        ("lr = float('inf')", "lr must be float"),
        ("wide = 1", "wide must be bool"),
        ("dataset = 5", "write 5 in quotes"),
        ("sizes = [1, 'a']", "sizes must be list"),
    ],
)
def test_begin_refuses_what_the_page_does_not_declare(session, injected, message):
    session(DECLARED, f"# Parameters\n{injected}\n", "bookkeeping.begin('p')")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        bookkeeping.begin("p")
    assert "\n" not in str(caught.value)


def test_begin_knows_the_cells_where_the_executor_keeps_no_history(session):
    """nbval runs cells without storing them; the session is watched from the first cell on."""
    session()
    shell, watchers = bookkeeping._shell(), []
    shell.user_ns |= {"In": [""], "seed": 3}
    shell.events = SimpleNamespace(callbacks={"pre_run_cell": watchers}, register=lambda _, f: watchers.append(f))
    bookkeeping._watch(shell)
    bookkeeping._watch(shell)  # the first cell, run again
    for cell in ("seed = 0", "# Parameters\nsed = 3", "bookkeeping.begin('p')"):
        for watcher in watchers:
            watcher(SimpleNamespace(raw_cell=cell))
    with pytest.raises(ValueError, match="did you mean 'seed'"):
        bookkeeping.begin("p")


def test_begin_needs_a_parameters_cell_of_ten_plain_literals(session):
    for cell in ("import os", "x = 1 + y", "\n".join(f"x{i} = {i}" for i in range(11))):
        bookkeeping._shell().user_ns = {"In": ["", cell, "bookkeeping.begin('p')"]}
        with pytest.raises(ValueError, match="parameters cell"):
            bookkeeping.begin("p")


values = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.none())


@given(st.one_of(values, st.lists(values)))
@settings(max_examples=100, deadline=None)
def test_a_spelled_value_is_read_back(value):
    assert parameters.parse(parameters.spell(value), value) == value
    assert type(parameters.parse(parameters.spell(value), value)) is type(value)


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("1e-3", 0.1, 1e-3),
        ("true", False, True),
        ("random:0.1", "x", "random:0.1"),
        ("class:3,n=100", "x", "class:3,n=100"),
        ("'5'", "x", "5"),
        ("[mnist, cifar10]", ["digits"], ["mnist", "cifar10"]),
        ("[1e-3, 2]", [0.1], [1e-3, 2]),
        ("true", "x", "true"),
    ],
)
def test_the_command_line_spells_values(text, default, value):
    assert parameters.parse(text, default) == value
    assert parameters.check({"p": default}, {"p": parameters.parse(text, default)}) == {"p": value}


def test_an_int_becomes_the_float_that_it_stands_for():
    checked = parameters.check({"lr": 0.1, "sizes": [0.5]}, {"lr": 1, "sizes": [1, 2.5]})
    assert type(checked["lr"]) is float and [type(v) for v in checked["sizes"]] == [float, float]


def test_plain_papermill_reads_the_command_that_the_page_shows():
    import yaml
    from papermill.cli import papermill
    from papermill.iorw import NoDatesSafeLoader

    given = {"n": 3, "lr": 1e-05, "text": "007", "on": True, "none": None, "many": [1e-05, 2, "a: b", None, True]}
    context = papermill.make_context("papermill", ["in", "out", *parameters.papermill_arguments(given)])
    from papermill.cli import _resolve_type

    read = {name: _resolve_type(value) for name, value in context.params["parameters"]}
    read |= dict(context.params["parameters_raw"])
    for text in context.params["parameters_yaml"]:
        read |= yaml.load(text, Loader=NoDatesSafeLoader)
    assert read == given


# The page's own account.


def test_reproduce_gives_commands_that_make_the_page_again(session, monkeypatch):
    monkeypatch.delenv(bookkeeping.OUTPUT, raising=False)
    session(DECLARED, '# Parameters\nseed = 3\ndataset = "a b<c"', "bookkeeping.begin('dose')")
    bookkeeping.begin("dose")
    data = SimpleNamespace(name="mnist5k", checksum=lambda: "0123456789abcdef" * 4)
    bookkeeping.reproduce(datasets=[data])
    shown, metadata = session.shown[0]
    command = shlex.split(shown["text/plain"].splitlines()[1])
    assert command[:3] == [".venv/bin/unlearn", "run", "notebooks/dose.ipynb"]
    assert command[3:] == ["-p", "seed", "3", "-p", "dataset", "a b<c", "-o", "runs/dose.ipynb"]
    told = metadata["unlearnlib"]["provenance"]
    assert told["chapter"] == "dose" and told["data"] == {"mnist5k": data.checksum()} and told["mode"] == "unpinned"
    assert told["parameters"] == {"seed": 3, "lr": 0.1, "dataset": "a b<c", "wide": False, "sizes": [1, 2]}
    assert "unlearnlib.publishing.bookkeeping" not in told["modules"] and told["modules"] == sorted(told["modules"])
    for text in shown.values():
        assert "0123456789ab" in text and "seed = 3" in text
    page = _Texts(shown["text/html"])
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert "../book/generated/status.html" in [a.get("href") for _, a in page.tags]
    again = dict(session.shown[0][0])
    bookkeeping.reproduce(datasets=[data])
    assert session.shown[1][0] == again


def test_reproduce_needs_begin(session):
    with pytest.raises(ValueError, match="begin"):
        bookkeeping.reproduce()


def test_records_are_kept_only_where_the_runner_asks_for_them(tmp_path, monkeypatch):
    rows = pd.DataFrame({"value": [0.1 + 0.2]})
    monkeypatch.delenv(bookkeeping.RECORDS, raising=False)
    bookkeeping.record(rows)
    monkeypatch.setenv(bookkeeping.RECORDS, str(tmp_path / "r.csv"))
    bookkeeping.record(rows)
    bookkeeping.record(rows.assign(method="a"))
    kept = pd.read_csv(tmp_path / "r.csv")
    assert kept["value"].tolist() == [0.1 + 0.2] * 2 and kept["method"].isna().tolist() == [True, False]


# Numerics. Torch chooses its instructions once a process, so pinning is tried in two forks of a process of its own.

_PIN = f"""
import os, sys, torch
sys.path.insert(0, {str(ROOT)!r})
from unlearnlib.publishing import bookkeeping
if os.fork():
    os.wait()
    bookkeeping.pin_numerics()
    print(torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), bookkeeping._page.mode)
else:
    torch.ones(9).exp()
    print(torch.backends.cpu.get_cpu_capability(), flush=True)
    bookkeeping.pin_numerics()
"""


def test_pinning_takes_effect_after_the_import_of_torch_but_not_after_its_first_operation():
    pinned = (*bookkeeping.PINS, *bookkeeping.ONE_THREAD, bookkeeping.FAST)
    env = {name: value for name, value in os.environ.items() if name not in pinned}
    for name in ("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES"):  # torch imports numpy, which reads them once
        env[name] = bookkeeping.PINS[name]
    done = subprocess.run([sys.executable, "-c", _PIN], env=env, capture_output=True, text=True, check=False)
    late, in_time = done.stdout.splitlines()
    assert in_time.split() == ["1", "AVX2", "pinned"]
    if late == "AVX512":  # a CPU without it has nothing to be too late for
        assert "restart and call pin_numerics() before" in done.stderr.splitlines()[-1]


def test_pinning_refuses_a_numpy_with_other_kernels():
    env = {**os.environ, "OPENBLAS_CORETYPE": "Sandybridge"}
    code = f"import sys, numpy; sys.path.insert(0, {str(ROOT)!r}); from unlearnlib.publishing import bookkeeping as b; "
    done = subprocess.run([sys.executable, "-c", code + "b.pin_numerics()"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("restart with OPENBLAS_CORETYPE=Haswell set before its first import")


def test_pinning_refuses_a_numpy_with_wider_instructions():
    env = {name: value for name, value in os.environ.items() if name != "NPY_DISABLE_CPU_FEATURES"}
    code = f"""
import sys, numpy
sys.path.insert(0, {str(ROOT)!r})
from unlearnlib.store import products
print(*products.wider())
products.use()
"""
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    if done.stdout.strip():  # a processor without them has nothing to refuse
        name = f'NPY_DISABLE_CPU_FEATURES="{done.stdout.strip()}"'
        assert done.stderr.splitlines()[-1] == (
            f"RuntimeError: numpy uses AVX-512: restart with {name} set before its first import"
        )
    pinned = {**env, "NPY_DISABLE_CPU_FEATURES": bookkeeping.PINS["NPY_DISABLE_CPU_FEATURES"]}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=pinned, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_the_fast_mode_changes_nothing(session, monkeypatch):
    import torch

    threads, before = torch.get_num_threads(), dict(os.environ)
    monkeypatch.setattr(torch, "set_num_threads", None)  # a call would raise
    bookkeeping.pin_numerics(fast=True)
    assert dict(os.environ) == before and torch.get_num_threads() == threads
    assert bookkeeping._page.mode == "fast"
    monkeypatch.setattr(bookkeeping, "_page", bookkeeping._Page())
    monkeypatch.setenv(bookkeeping.FAST, "1")
    bookkeeping.pin_numerics()
    assert bookkeeping._page.mode == "fast"
