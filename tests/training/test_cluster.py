"""Jobs here, in processes and on a dask cluster: the same results, whatever is killed in the middle."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from unlearnlib import studies
from unlearnlib.training import cluster, jobs, remote
from unlearnlib.training.cluster import execute
from unlearnlib.training.jobs import Failed, Job


def add(argument, needed):
    return argument + sum(needed.values())


def fail(argument, needed):
    raise {"memory": MemoryError, "diverged": ArithmeticError}.get(argument, ValueError)(f"no {argument}\n at all")


def seen(argument, needed):
    return {name: value.reason if isinstance(value, Failed) else value for name, value in needed.items()}


def die(argument, needed):
    """Kill the own worker, the first `times` times."""
    folder, times = argument
    tries = len(list(Path(folder).iterdir()))
    (Path(folder) / str(tries)).touch()
    if tries < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def threads(argument, needed):
    return torch.get_num_threads()


def leave(argument, needed):
    raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "nothing": BaseException("odd")}[argument]


def hang(argument, needed):
    time.sleep(argument)


GRAPH = [
    Job("a", add, 1),
    Job("b", add, 2, kept=True),
    Job("c", add, 10, ("a", "b"), kept=True),
    Job("memory", fail, "memory"),
    Job("diverged", fail, "diverged", kept=True),
    Job("told", seen, None, ("memory", "c"), kept=True),
    Job("threads", threads, None, kept=True),
]


def test_a_graph_here_with_failures():
    torch.set_num_threads(2)
    try:
        ended = dict(execute(GRAPH[:2] + [Job("c", add, 10, ("a",), kept=True), *GRAPH[3:5], GRAPH[6]]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert ended["a"] is None and ended["b"] == 2 and ended["threads"] == 1
    assert ended["memory"] == Failed("MemoryError: no memory at all", lasting=False)
    assert ended["diverged"] == Failed("ArithmeticError: no diverged at all", lasting=True)


LEAVING = [Job(how, leave, how, kept=True) for how in ("exit", "interrupt", "nothing")] + [Job("a", add, 1, kept=True)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_job_that_wants_to_leave_ends_itself_and_not_the_run(workers):
    ended = dict(execute(LEAVING, workers=workers))
    assert ended["exit"] == Failed("SystemExit: 3") and ended["interrupt"] == Failed("KeyboardInterrupt")
    assert ended["nothing"] == Failed("BaseException: odd") and ended["a"] == 1


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_real_signal_ends_the_run(number, error):
    def signalled(argument, needed):
        os.kill(os.getpid(), number)
        time.sleep(5)

    before = signal.getsignal(number)
    with pytest.raises(error) as raised:
        list(execute([Job("a", signalled, None), Job("b", add, 1)]))
    assert signal.getsignal(number) is before
    assert number == signal.SIGINT or raised.value.code == 143


def test_handlers_of_an_application_are_left_alone():
    mine = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, mine)
    try:
        with jobs.stoppable():
            assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_job_over_the_limit_is_ended_and_its_neighbours_are_not_blamed():
    slow = [Job("slow", hang, 600, kept=True), Job("told", seen, None, ("slow",), kept=True)]
    ended = dict(execute([*slow, *(Job(name, add, 1, kept=True) for name in "abc")], workers=2, limit=8))
    assert ended["slow"] == Failed("it took longer than the limit of 8 seconds")
    assert ended["told"] == {"slow": "it took longer than the limit of 8 seconds"}
    assert [ended[name] for name in "abc"] == [1, 1, 1]
    for wrong in (0, -1, float("nan"), "5"):
        with pytest.raises(ValueError, match="limit must be seconds above 0"):
            list(execute([], workers=1, limit=wrong))
    with pytest.raises(ValueError, match="limit= needs workers= or cluster="):
        list(execute([], limit=5))


def test_processes_survive_what_kills_one_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "ATTEMPTS", 2)
    for name in ("once", "always"):
        (tmp_path / name).mkdir()
    jobs = [
        Job("before", add, 1),
        Job("once", die, (str(tmp_path / "once"), 1), kept=True),
        Job("always", die, (str(tmp_path / "always"), 9), kept=True),
        Job("after", add, 5, ("before",), kept=True),
        Job("told", seen, None, ("always", "before"), kept=True),
    ]
    ended = dict(execute(jobs, workers=1))
    assert ended["once"] == "alive" and "worker process died" in ended["always"].reason
    assert not ended["always"].lasting and len(list((tmp_path / "always").iterdir())) == 2
    assert ended["before"] is None
    # What only feeds jobs is not passed on in person: the store has it.
    assert ended["after"] == 6
    assert ended["told"]["before"] == 1 and "worker process died" in ended["told"]["always"]


def test_a_job_that_lost_its_worker_runs_alone_so_that_no_neighbour_is_blamed():
    jobs = [Job(name, add, 0) for name in "abc"]

    def next_ones(lost, running=()):
        return [j.name for j in cluster._startable(jobs, {}, lost, dict.fromkeys(range(len(running))), 3)]

    none = dict.fromkeys("abc", 0)
    assert next_ones(none) == ["a", "b", "c"]
    assert next_ones({**none, "a": 1}) == ["a"]
    assert next_ones({**none, "b": 1}) == ["a"]
    suspect = {"future": jobs[0]}
    assert cluster._startable(jobs[1:], {}, {**none, "a": 1}, suspect, 3) == []


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from unlearnlib.training import cluster\n"
        "if __name__ == '__main__':\n"
        "    pool = cluster._pool(1)\n"  # a pool that nobody holds ends its workers
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    with parent.stdout as told:
        worker = int(told.readline())
    assert _running(worker)
    parent.kill()
    parent.wait()
    assert _within(60, lambda: not _running(worker))


def test_a_script_without_its_guard_is_told_so(monkeypatch):
    class Broken:
        _processes = None

        def __init__(self, *_):
            pass

        def submit(self, *_):
            raise BrokenProcessPool("a child process terminated abruptly")

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(cluster, "ProcessPoolExecutor", Broken)
    with pytest.raises(RuntimeError, match='put the call below `if __name__ == "__main__":`'):
        list(execute([], workers=1))


def test_wrong_requests_are_one_line_that_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="either workers= or cluster="):
        list(execute([], workers=1, cluster="tcp://127.0.0.1:1"))
    with pytest.raises(ValueError, match="dask cluster only"):
        list(execute([], resources={"GPU": 1}))
    with pytest.raises(ValueError, match="no such scheduler file"):
        list(execute([], cluster=str(tmp_path / "scheduler.json")))


@pytest.fixture
def scheduler():
    """A scheduler on 127.0.0.1; yields its address, its process, and how to start a worker in a folder."""
    program = shutil.which("dask", path=os.path.dirname(sys.executable)) or pytest.skip("dask is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    here = ["--no-dashboard", "--host", "127.0.0.1"]
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])  # of the jobs above
    known = {**os.environ, "PYTHONPATH": path}
    command = [program, "scheduler", *here, "--port", address.rsplit(":", 1)[1]]
    started = [subprocess.Popen(command, **_quiet(), env=known)]

    def start(folder: Path, **environment) -> subprocess.Popen:
        options = ["--nthreads", "1", "--no-nanny", "--name", folder.name, "--resources", "GPU=1"]
        command = [program, "worker", address, *here, *options, "--local-directory", str(folder)]
        started.append(subprocess.Popen(command, **_quiet(), env={**known, **environment}))
        return started[-1]

    try:
        yield address, started[0], start
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture
def dask(scheduler, tmp_path):
    """A scheduler and the processes of two workers; yields its address and the workers by name."""
    address, _, start = scheduler
    workers = {
        "one": start(tmp_path / "one", UNLEARN_CACHE="off"),
        "two": start(tmp_path / "two", UNLEARN_CACHE=str(tmp_path / "cache two")),
    }
    return address, workers


def _quiet() -> dict:
    return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _within(seconds: float, true) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(true())


def _running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def sign():
    return {"x": 1}


def slow_sign():
    time.sleep(30)


def test_a_cluster_without_workers_or_that_is_lost_ends_in_one_line(scheduler, tmp_path, monkeypatch, caplog):
    """Nobody there; a job over the limit; a worker and then the scheduler lost while all are asked."""
    address, process, start = scheduler
    monkeypatch.setattr(remote, "POLL", 0.2)
    with pytest.raises(ValueError, match=rf"no worker came to {address} within 1 seconds: start one with `dask worker"):
        remote.agreed(address, sign, patience=1)
    assert len(caplog.messages) == 1 and "waiting up to 1 seconds" in caplog.text
    caplog.clear()
    ended = dict(execute(GRAPH[:2], cluster=address, patience=1))
    assert ended["b"] == Failed("the cluster had no worker for 1 seconds") and "no worker is left" in caplog.text

    workers = [start(tmp_path / "one")]
    assert remote.agreed(address, sign) == {"x": 1}
    leaving = dict(execute(LEAVING, cluster=address))
    assert leaving["exit"] == Failed("SystemExit: 3") and leaving["a"] == 1
    slow = [Job("slow", hang, 600, kept=True), Job("told", seen, None, ("slow",), kept=True)]
    ended = dict(execute(slow, cluster=address, limit=1, patience=1))
    assert ended["slow"] == Failed("it took longer than the limit of 1 seconds") and isinstance(ended["told"], Failed)
    assert workers[0].wait(20) is not None, "nothing else ends what a thread is at"

    for victim in (lambda: workers[-1], lambda: process):
        workers.append(start(tmp_path / f"{len(workers)}"))
        remote.agreed(address, sign)
        threading.Timer(1.0, lambda victim=victim: victim().kill()).start()
        with pytest.raises(ValueError, match="was lost while it was asked") as error:
            remote.agreed(address, slow_sign)
        assert "\n" not in str(error.value)
    assert all("Traceback" not in record.getMessage() and not record.exc_info for record in caplog.records)


def test_a_study_on_a_cluster_that_loses_a_worker_has_the_rows_of_the_sequential_run(dask, tmp_path, monkeypatch):
    from unlearnlib.training.recipe import Recipe

    address, workers = dask
    setting = studies.Setting("digits", "mlp", recipe=Recipe(epochs=4, batch_size=32))
    grid = studies.Grid([setting], ["finetune", "neggrad"], seeds=(0, 1), rungs=("utility", "cost"))
    rows = {}

    def run():
        rows["cluster"] = studies.run(grid, folder=tmp_path / "rows", cluster=address, resources={"GPU": 1})

    thread = threading.Thread(target=run)
    thread.start()
    parts = lambda: len(list((tmp_path / "rows").glob("??/*.json")))  # noqa: E731
    assert _within(240, lambda: parts() > 0 or not thread.is_alive())
    workers["two"].kill()
    before = parts()
    thread.join()
    assert 0 < before < len(grid.cells()) == parts()
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache here"))
    alone = studies.run(grid)
    seconds = alone["statistic"].str.contains("seconds")
    assert alone["valid_flag"].all()
    assert alone[~seconds].equals(rows["cluster"][~seconds])
    assert (rows["cluster"].loc[seconds, "value"] > 0).any()
