"""Run a graph of jobs here, in processes, or on a dask cluster, and survive what can be survived.

A job that raises ends as `Failed` and the rest goes on. A worker process that dies (kill -9, out of memory) is replaced
and its jobs are run again, alone, so that a job which kills its worker is found and its neighbours are not blamed. A
process whose parent dies ends itself.

Where the jobs run does not change their results as long as all compute with the same numerics; `signature` is what
workers must agree on.
"""

import contextlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from unlearnlib._extras import optional
from unlearnlib.store import products

ATTEMPTS = 3  # times that a job may lose its worker


@dataclass(frozen=True)
class Job:
    """`function(argument, {need: its result})`, both picklable. `kept` results come back; others only feed jobs."""

    name: str
    function: Callable[[object, Mapping[str, object]], object]
    argument: object
    needs: tuple[str, ...] = ()
    kept: bool = False


@dataclass(frozen=True)
class Failed:
    """How a job ended that has no result. `lasting` where running it again would end in the same way."""

    reason: str
    lasting: bool = False


def attempt(function: Callable, argument: object, needs: Sequence[str], results: Sequence[object]) -> object:
    """The job's result, or Failed; one thread, as on every worker."""
    try:
        with one_thread():
            return function(argument, dict(zip(needs, results, strict=True)))
    except Exception as error:  # whatever it is: one job must not take the others with it
        return Failed(described(error), isinstance(error, ArithmeticError))


def described(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside the block: the same bits for any number of workers, and no spinning."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def execute(
    jobs: Sequence[Job],
    *,
    workers: int = 0,
    cluster: str | None = None,
    resources: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, object]]:
    """Yield (name, result or Failed) of each job as it ends; jobs come after those that they need.

    workers     0: in this process; else that many processes of one thread each
    cluster     "tcp://host:port" of a dask scheduler, or the path of its scheduler file, instead of processes
    resources   what a job takes of a dask worker's resources, as {"GPU": 1}

    Of jobs that are not `kept` the result is None here (on a cluster it stays there). Raises ValueError where the
    cluster cannot be reached, RuntimeError where processes cannot be started.
    """
    if cluster is not None:
        if workers:
            raise ValueError("give either workers= or cluster=, not both")
        yield from _on_cluster(jobs, cluster, dict(resources or {}))
    elif resources:
        raise ValueError("resources= is read by a dask cluster only: give cluster= too")
    elif workers:
        yield from _in_processes(jobs, workers)
    else:
        yield from _here(jobs)


def _here(jobs: Sequence[Job]) -> Iterator[tuple[str, object]]:
    ended: dict[str, object] = {}
    for job in jobs:
        result = attempt(job.function, job.argument, job.needs, [ended[name] for name in job.needs])
        ended[job.name] = _remembered(job, result)
        yield job.name, _told(job, result)


def _remembered(job: Job, result: object) -> object:
    """What later jobs are given; a result that is only kept need not stay in memory."""
    return None if job.kept and not isinstance(result, Failed) else result


def _told(job: Job, result: object) -> object:
    return result if job.kept or isinstance(result, Failed) else None


def _begin_worker(environment: Mapping[str, str]) -> None:
    """Runs first in every worker process: one thread, no bars, and an end when the parent ends."""
    os.environ.update(environment)
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    if os.environ.get(products.WANTED) == "1":
        products.use()
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
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        pool.shutdown(wait=False, cancel_futures=True)
        why = 'the worker processes did not start: in a script, put the call below `if __name__ == "__main__":`'
        raise RuntimeError(why) from None
    return pool


def _in_processes(jobs: Sequence[Job], workers: int) -> Iterator[tuple[str, object]]:
    ended: dict[str, object] = {}
    waiting, lost = list(jobs), dict.fromkeys((job.name for job in jobs), 0)
    modules = sorted({job.function.__module__ for job in jobs})
    pool, running = _pool(workers, modules), {}
    try:
        while waiting or running:
            whole = _submit(pool, waiting, running, _startable(waiting, ended, lost, running, workers), ended)
            done = wait(running, return_when=FIRST_COMPLETED).done if running else ()
            unlucky = []
            for future in done:
                job = running.pop(future)
                result = _result(future)
                if result is None:
                    unlucky.append(job)
                    continue
                ended[job.name] = _remembered(job, result[0])
                yield job.name, _told(job, result[0])
            if unlucky or not whole:  # one lost worker ends the whole pool: those that it was at begin again
                unlucky += running.values()
                running = {}
                _stop(pool)
                pool = _pool(workers, modules)
            for job in unlucky:
                lost[job.name] += 1
                if lost[job.name] < ATTEMPTS:
                    waiting.insert(0, job)
                else:
                    ended[job.name] = Failed("its worker process died (killed, or out of memory)")
                    yield job.name, ended[job.name]
    finally:
        _stop(pool)


def _submit(pool: ProcessPoolExecutor, waiting: list, running: dict, chosen: Sequence[Job], ended: Mapping) -> bool:
    """Move the chosen jobs from `waiting` to `running`; False where the pool has lost a worker."""
    for job in chosen:
        results = [ended[name] for name in job.needs]
        try:
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


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the workers now: what they were at is made again by the next run."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
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


def _client(address: str):
    Client = optional("distributed").Client
    try:
        if "://" in address:
            return Client(address, timeout=20, set_as_default=False)
        if not Path(address).exists():
            raise OSError("no such scheduler file")
        return Client(scheduler_file=address, timeout=20, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ValueError(f"no dask scheduler at {address}: {described(error)}") from None


def agreed(address: str, sign: Callable[[], Mapping[str, object]]) -> Mapping[str, object]:
    """What `sign()` returns on the workers of a cluster. Raises ValueError where there are none or they differ."""
    with _client(address) as client:
        client.wait_for_workers(1, timeout=60)
        threads = client.nthreads()
        many = [worker for worker, count in threads.items() if count != 1]
        if many:
            raise ValueError(f"worker {many[0]} runs {threads[many[0]]} tasks at once: start it with --nthreads 1")
        signed = client.run(_signed, sign)
    first, *rest = signed.items()
    for worker, value in rest:
        differing = [name for name in value if value[name] != first[1].get(name)]
        if differing:
            raise ValueError(f"workers {first[0]} and {worker} differ in {', '.join(differing)}: start them alike")
    return first[1]


def _signed(sign: Callable[[], object]) -> object:
    with one_thread():
        return sign()


def _on_cluster(jobs: Sequence[Job], address: str, resources: dict) -> Iterator[tuple[str, object]]:
    as_completed = optional("distributed").as_completed
    with _client(address) as client:
        futures, names = {}, {}
        for number, job in zip(itertools.count(), jobs, strict=False):
            needed = [futures[name] for name in job.needs]
            future = client.submit(
                attempt,
                job.function,
                job.argument,
                job.needs,
                needed,
                key=f"unlearn-{os.getpid()}-{id(jobs)}-{number}",
                pure=False,
                retries=ATTEMPTS,
                resources=resources or None,
            )
            futures[job.name] = future
            names[future.key] = job
        # A result that nobody keeps stays on the cluster, until the jobs that need it are through.
        ends = as_completed([futures[job.name] for job in jobs], loop=client.loop)
        futures.clear()
        for future in ends:
            job = names[future.key]
            if future.status == "error":
                yield job.name, Failed(f"its workers died or failed: {described(future.exception())}")
            else:
                yield job.name, future.result() if job.kept else None
