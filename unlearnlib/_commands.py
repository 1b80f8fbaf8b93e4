"""What every command of `unlearn` shares: how arguments are read, how errors and signals end it.

Exit status: 0 all well, 1 something is not as it should be, 2 a wrong request, 130 interrupted, 143 terminated.
"""

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator

LONGEST = 500  # characters of an error that are shown


class Parser(argparse.ArgumentParser):
    """Help with examples as they are written; a number such as -1e-05 is a value; an error is one line."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)")  # the parser's own knows no exponents

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


class Stopped(KeyboardInterrupt):
    """A signal that asks the work to end; `status` is the exit status that a shell expects."""

    def __init__(self, number: int):
        super().__init__(number)
        self.status = 128 + number


def one_line(text: object, longest: int = LONGEST) -> str:
    """The text without line breaks, and not longer than a terminal is read."""
    flat = " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()  # names of files may be no text
    return flat if len(flat) <= longest else f"{flat[:longest]}... ({len(flat)} characters)"


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the first Ctrl-C, SIGTERM or hang-up into `Stopped`, and ignore further ones while the work ends."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    watched = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # nohup ignores one

    def stop(number, frame):
        for other in watched:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for number in watched:
        signal.signal(number, stop)
    try:
        yield
    except Stopped:
        raise  # the process is about to end: signals stay ignored
    except BaseException:
        _restore(before)
        raise
    _restore(before)


def _restore(handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def carried_out(call: Callable[[], int], program: str) -> int:
    """The exit status of a command: its own, or that of an error or a signal, which is told in one line."""
    in_main = threading.current_thread() is threading.main_thread()
    try:
        with _stoppable() if in_main else contextlib.nullcontext():
            return call()
    except (ValueError, ModuleNotFoundError) as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stopped:
        print(f"{program}: interrupted, nothing was half written", file=sys.stderr)
        return getattr(stopped, "status", 130)
