"""Jobs on a dask cluster: on workers that agree, with a clear end where they are lost."""

import contextlib
import itertools
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from unlearnlib._extras import optional
from unlearnlib.training.jobs import Failed, Job, attempt, described, one_thread, told

POLL = 2.0  # seconds between two looks at the workers
CALL = 20.0  # seconds that a question to the scheduler may take
_log = logging.getLogger(__name__)


def too_long(limit: float) -> Failed:
    return Failed(f"it took longer than the limit of {limit:g} seconds")


@contextlib.contextmanager
def _client(address: str) -> Iterator:
    """A client of the scheduler at an address or in a file. Raises ValueError where there is none."""
    Client = optional("distributed").Client
    # It tells in forty lines of a lost scheduler what is told here in one.
    log = logging.getLogger("distributed.client")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        try:
            file = None if "://" in address else address
            if file is not None and not Path(file).is_file():
                raise OSError("no such scheduler file")
            client = Client(None if file else address, scheduler_file=file, timeout=CALL, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ValueError(f"no dask scheduler at {address}: {described(error)}") from None
        with client:
            yield client
    finally:
        log.setLevel(before)


def agreed(address: str, sign: Callable[[], Mapping[str, object]], patience: float = 300.0) -> Mapping[str, object]:
    """What `sign()` returns on the workers of a cluster.

    Raises ValueError, in one line, where none comes within `patience` seconds, where they differ, or where they or the
    scheduler are lost while they are asked.
    """
    with _client(address) as client:
        try:
            if not client.nthreads():
                _log.warning("no worker at %s yet: waiting up to %.0f seconds for one", address, patience)
                with contextlib.suppress(TimeoutError):
                    client.wait_for_workers(1, timeout=patience)
            threads = client.nthreads()
            signed = client.run(_signed, sign) if threads and set(threads.values()) == {1} else {}
        except Exception as error:  # of any layer of the connection
            raise ValueError(f"the cluster at {address} was lost while it was asked: {described(error)}") from None
    if not threads:
        start = f"dask worker {address} --nthreads 1"
        raise ValueError(f"no worker came to {address} within {patience:g} seconds: start one with `{start}`")
    many = [worker for worker, count in threads.items() if count != 1]
    if many:
        raise ValueError(f"worker {many[0]} runs {threads[many[0]]} tasks at once: start it with --nthreads 1")
    first, *rest = signed.items()
    for worker, value in rest:
        differing = [name for name in value if value[name] != first[1].get(name)]
        if differing:
            raise ValueError(f"workers {first[0]} and {worker} differ in {', '.join(differing)}: start them alike")
    return first[1]


def _signed(sign: Callable[[], object]) -> object:
    with one_thread():
        return sign()


def run(
    jobs: Sequence[Job], address: str, resources: dict, limit: float | None, patience: float, attempts: int
) -> Iterator[tuple[str, object]]:
    """`cluster.execute` on the workers of a scheduler."""
    with _client(address) as client:
        left, futures = {job.name: job for job in jobs}, _submitted(client, jobs, resources, attempts)
        ends: queue.Queue = queue.Queue()
        threading.Thread(target=_listen, args=(client, dict(futures), left.copy(), ends), daemon=True).start()
        watch = _Watch(client, address, patience, math.inf if limit is None else limit)
        while left:
            with contextlib.suppress(queue.Empty):
                name, result = ends.get(timeout=POLL)
                futures.pop(name, None)  # what nobody keeps stays there until the jobs that need it are through
                if name in left:
                    yield name, told(left.pop(name), result)
            if not watch.is_time():
                continue
            if watch.deserted():
                yield from ((name, Failed(f"the cluster had no worker for {patience:g} seconds")) for name in left)
                return
            for name in watch.overdue(futures):
                yield name, told(left.pop(name), too_long(watch.limit))


class _Watch:
    """Looks at a cluster now and then: whether anybody is there, and at what for how long."""

    def __init__(self, client, address: str, patience: float, limit: float):
        self.client, self.address, self.patience, self.limit = client, address, patience, limit
        self._looked = self._seen = time.monotonic()
        self._warned = False
        self._since: dict[tuple[str, str], float] = {}  # (key, worker) -> when it was first seen at it

    def is_time(self) -> bool:
        """Whether the last look was long enough ago."""
        now = time.monotonic()
        due = now - self._looked >= POLL
        self._looked = now if due else self._looked
        return due

    def deserted(self) -> bool:
        """Whether there has been no worker for as long as patience lasts; the first look that finds none says so."""
        if _workers(self.client):
            self._seen, self._warned = self._looked, False
        elif not self._warned:
            self._warned = True
            _log.warning("no worker is left at %s: waiting up to %.0f seconds for one", self.address, self.patience)
        return self._looked - self._seen > self.patience

    def overdue(self, futures: dict[str, object]) -> list[str]:
        """The jobs that have taken longer than the limit. They are cancelled, and their workers ended."""
        if self.limit == math.inf:
            return []
        names = {future.key: name for name, future in futures.items()}
        self._since = {at: self._since.get(at, self._looked) for at in _executing(self.client)}
        late = [at for at, since in self._since.items() if self._looked - since > self.limit and at[0] in names]
        for key, worker in late:
            futures.pop(names[key]).cancel(force=True)
            _end(self.client, worker)
        return [names[key] for key, _ in late]


def _submitted(client, jobs: Sequence[Job], resources: dict, attempts: int) -> dict[str, object]:
    futures: dict[str, object] = {}
    for number, job in zip(itertools.count(), jobs, strict=False):
        futures[job.name] = client.submit(
            attempt,
            job.function,
            job.argument,
            job.needs,
            [futures[name] for name in job.needs],
            key=f"unlearn-{os.getpid()}-{id(jobs)}-{number}",
            pure=False,
            retries=attempts,
            resources=resources or None,
        )
    return futures


def _listen(client, futures: dict, jobs: Mapping[str, Job], ends: queue.Queue) -> None:
    """Put (name, result or Failed) of each job as it ends; the thread is left alone where nothing ends any more."""
    as_completed = optional("distributed").as_completed
    names = {future.key: name for name, future in futures.items()}
    with contextlib.suppress(Exception):  # the client is closed: nobody listens
        for future in as_completed(futures.values(), loop=client.loop):
            name = names[future.key]
            try:
                if future.status == "error":
                    result = Failed(f"its workers died or failed: {described(future.exception())}")
                elif future.status == "finished":
                    result = future.result() if jobs[name].kept else None
                else:
                    result = Failed("the cluster lost it: its scheduler ended, or what it needs was given up")
            except BaseException as error:
                result = Failed(described(error))
            futures.pop(name, None)
            ends.put((name, result))


def _workers(client) -> int:
    """How many workers there are; none where the scheduler does not answer."""
    try:
        return len(client.sync(client.scheduler.ncores, callback_timeout=CALL))
    except Exception:
        return 0


def _executing(client) -> list[tuple[str, str]]:
    """(key, worker) of the jobs that workers are at now."""
    try:
        return [(key, worker) for worker, stacks in client.call_stack().items() for key in stacks]
    except Exception:
        return []


def _end(client, worker: str) -> None:
    """End a worker's process, as nothing else ends what its thread is at. Its nanny starts another."""
    with contextlib.suppress(Exception):
        client.run(os._exit, 1, workers=[worker], on_error="ignore")
