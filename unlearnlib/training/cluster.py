"""Run a graph of jobs here, in processes, or on a dask cluster, and survive what can be survived.

A job that raises ends as `Failed` and the rest goes on. A worker process that dies (kill -9, out of memory) is replaced
and its jobs are run again, alone, so that a job which kills its worker is found and its neighbours are not blamed. A
process whose parent dies ends itself.

Where the jobs run does not change their results as long as all compute with the same numerics; `remote.agreed` asks
the workers of a cluster whether they do.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch
from tqdm import tqdm

from unlearnlib.store import products
from unlearnlib.training import remote
from unlearnlib.training.jobs import Failed, Job, attempt, described, stoppable, told, uninterrupted

ATTEMPTS = 3  # times that a job may lose its worker
_SECONDS_TO_END = 5.0  # that a worker which is told to end has for it


def execute(
    jobs: Sequence[Job],
    *,
    workers: int = 0,
    cluster: str | None = None,
    resources: Mapping[str, float] | None = None,
    limit: float | None = None,
    patience: float = 300.0,
) -> Iterator[tuple[str, object]]:
    """Yield (name, result or Failed) of each job as it ends; jobs come after those that they need.

    workers     0: in this process; else that many processes of one thread each
    cluster     `tcp://host:port` of a dask scheduler, or the path of its scheduler file, instead of processes
    resources   what a job takes of a dask worker's resources, as {"GPU": 1}
    limit       seconds that one job may take: its worker is then ended, and the job is Failed. None: no limit
    patience    seconds without any worker of the cluster after which the jobs that are left are Failed

    Of jobs that are not `kept` the result is None here (on a cluster it stays there). Raises ValueError where the
    cluster cannot be reached, RuntimeError where processes cannot be started.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise ValueError(f"workers must be a whole number, at least 0, not {workers!r:.60}")
    for name, seconds in (("limit", limit), ("patience", patience)):
        if seconds is not None and not (isinstance(seconds, (int, float)) and seconds > 0):
            raise ValueError(f"{name} must be seconds above 0, not {seconds!r}")
    if limit is not None and not workers and cluster is None:
        raise ValueError("limit= needs workers= or cluster=: in this process a job cannot be ended")
    if cluster is not None:
        if workers:
            raise ValueError("give either workers= or cluster=, not both")
        yield from remote.run(jobs, cluster, dict(resources or {}), limit, patience, ATTEMPTS)
    elif resources:
        raise ValueError("resources= is read by a dask cluster only: give cluster= too")
    elif workers:
        yield from _in_processes(jobs, workers, math.inf if limit is None else limit)
    else:
        yield from _here(jobs)


def _here(jobs: Sequence[Job]) -> Iterator[tuple[str, object]]:
    ended: dict[str, object] = {}
    for job in jobs:
        with stoppable():  # a real Ctrl-C ends the run, an exception of that name only the job
            result = attempt(job.function, job.argument, job.needs, [ended[name] for name in job.needs])
        ended[job.name] = _remembered(job, result)
        yield job.name, told(job, result)


def _remembered(job: Job, result: object) -> object:
    """What later jobs are given; a result that is only kept need not stay in memory."""
    return None if job.kept and not isinstance(result, Failed) else result


def _begin_worker(environment: Mapping[str, str]) -> None:
    """Runs first in every worker process: one thread, no bars, and an end when the parent ends."""
    os.environ.update(environment)
    os.environ["TQDM_DISABLE"] = "1"
    tqdm.set_lock(threading.RLock())  # or each bar would make a semaphore that a worker which is ended leaves behind
    torch.set_num_threads(1)
    if os.environ.get(products.WANTED) == "1":
        products.use()
    if hasattr(signal, "pthread_sigmask"):  # Ctrl-C goes on waiting: the parent hears it, and ends its workers
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _pool(workers: int, modules: Sequence[str] = ()) -> ProcessPoolExecutor:
    """Worker processes. Where the system can, they are copies of one that has imported `modules` already.

    Importing torch costs seconds a process. The process that is copied computes nothing, so no state of threads or
    devices is copied with it.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["unlearnlib", *modules])
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (dict(os.environ),))
    try:
        with uninterrupted():  # or a process that is just being begun would not be known, and outlive this one
            first = pool.submit(os.getpid)
        first.result()
    except BaseException as error:
        _stop(pool, busy=True)
        if not isinstance(error, BrokenProcessPool):
            raise
        why = 'the worker processes did not start: in a script, put the call below `if __name__ == "__main__":`'
        raise RuntimeError(why) from None
    return pool


def _in_processes(jobs: Sequence[Job], workers: int, limit: float) -> Iterator[tuple[str, object]]:
    ended: dict[str, object] = {}
    waiting, lost = list(jobs), dict.fromkeys((job.name for job in jobs), 0)
    modules = sorted({job.function.__module__ for job in jobs})
    pool, running, began = _pool(workers, modules), {}, {}
    try:
        while waiting or running:
            whole = _submit(pool, waiting, running, _startable(waiting, ended, lost, running, workers), ended)
            for future in running:
                began.setdefault(future, time.monotonic())
            left = min((began[future] for future in running), default=0.0) + limit - time.monotonic()
            done = wait(running, None if left == math.inf else max(left, 0.0), FIRST_COMPLETED).done if running else ()
            unlucky = []
            for future in done:
                job = running.pop(future)
                result = _result(future)
                if result is None:
                    unlucky.append(job)
                    continue
                ended[job.name] = _remembered(job, result[0])
                yield job.name, told(job, result[0])
            overdue = [future for future in running if time.monotonic() - began[future] >= limit]
            for future in overdue:
                job = running.pop(future)
                ended[job.name] = remote.too_long(limit)
                yield job.name, ended[job.name]
            if unlucky or overdue or not whole:  # one lost worker ends the whole pool: those that it was at begin again
                if overdue and not unlucky:
                    waiting[:0] = running.values()  # they are not to blame
                else:
                    unlucky += running.values()
                running = {}
                _stop(pool, busy=True)
                pool = _pool(workers, modules)
            for job in unlucky:
                lost[job.name] += 1
                if lost[job.name] < ATTEMPTS:
                    waiting.insert(0, job)
                else:
                    ended[job.name] = Failed("its worker process died (killed, or out of memory)")
                    yield job.name, ended[job.name]
    finally:
        _stop(pool, busy=bool(running))


def _submit(pool: ProcessPoolExecutor, waiting: list, running: dict, chosen: Sequence[Job], ended: Mapping) -> bool:
    """Move the chosen jobs from `waiting` to `running`; False where the pool has lost a worker."""
    for job in chosen:
        results = [ended[name] for name in job.needs]
        try:
            with uninterrupted():
                future = pool.submit(attempt, job.function, job.argument, job.needs, results)
        except BrokenProcessPool:
            return False
        waiting.remove(job)
        running[future] = job
    return True


def _result(future: Future) -> tuple[object] | None:
    """What a job left behind, None where its worker was lost."""
    try:
        return (future.result(),)
    except BrokenProcessPool:
        return None
    except Exception as error:  # the job, or its result, could not be sent
        return (Failed(described(error)),)


def _stop(pool: ProcessPoolExecutor, busy: bool) -> None:
    """End the workers: idle ones tidy up and go, of busy ones what they were at is made again by the next run."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        if not busy:
            process.join(_SECONDS_TO_END)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_SECONDS_TO_END)
        if process.exitcode is None:
            process.kill()
            process.join()


def _startable(waiting: Sequence[Job], ended: Mapping, lost: Mapping, running: Mapping, workers: int) -> list[Job]:
    """The next jobs; one that has lost a worker before runs alone, so that the next loss is its own."""
    suspects = any(lost[job.name] for job in running.values())
    ready = (job for job in waiting if all(name in ended for name in job.needs))
    chosen: list[Job] = []
    for job in ready:
        if len(running) + len(chosen) >= workers or suspects:
            break
        if lost[job.name]:
            return chosen or ([] if running else [job])
        chosen.append(job)
    return chosen
