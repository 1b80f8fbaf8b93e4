"""Jobs: what is run somewhere, how it ends, and what ends the run instead."""

import atexit
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch


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


class Interrupted(KeyboardInterrupt):
    """Somebody pressed Ctrl-C; a job that raises KeyboardInterrupt by itself does not raise this."""


class Terminated(SystemExit):
    """Somebody sent SIGTERM; a job that raises SystemExit by itself does not raise this."""


def attempt(function: Callable, argument: object, needs: Sequence[str], results: Sequence[object]) -> object:
    """The job's result, or Failed; one thread, as on every worker."""
    try:
        with one_thread():
            return function(argument, dict(zip(needs, results, strict=True)))
    except (Interrupted, Terminated):
        raise
    except BaseException as error:  # whatever it is, SystemExit too: one job must not take the others with it
        return Failed(described(error), isinstance(error, ArithmeticError))


def described(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def told(job: Job, result: object) -> object:
    """What is said of a job that has ended: its result where it is kept, or how it failed."""
    return result if job.kept or isinstance(result, Failed) else None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside the block: the same bits for any number of workers, and no spinning."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside the block Ctrl-C raises Interrupted and SIGTERM raises Terminated, so that both clean up.

    Out of the outermost block comes KeyboardInterrupt, or SystemExit with code 143. The first signal is the one that
    counts: a second Ctrl-C does not disturb the cleaning up. Handlers that an application has set are left alone, so
    are threads, which hear no signals.
    """
    ours = {signal.SIGINT: (Interrupted, signal.default_int_handler), signal.SIGTERM: (Terminated, signal.SIG_DFL)}
    before, heard = {}, []

    def stop(number: int, frame: object) -> None:
        if not heard:
            heard.append(number)
            raise ours[number][0](128 + number)

    if threading.current_thread() is threading.main_thread():
        before = {number: default for number, (_, default) in ours.items() if signal.getsignal(number) == default}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    except Interrupted:
        if not before:
            raise
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # nor does a second one disturb the end of Python
        raise KeyboardInterrupt from None  # what Python and others expect outside
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block has ended, and longer in processes that are started in it."""
    if not hasattr(signal, "pthread_sigmask"):  # no such thing on this system
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
