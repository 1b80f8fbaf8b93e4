"""What all parts share: how they wait to be put on board, and how they refuse a wrong value."""

import math
import numbers
from dataclasses import replace

from torch import nn

from unlearnlib.training.loop import Part


class Dose(Part):
    """A part that must first see where the descent starts: `applied` replaces it by one that is ready."""

    def penalty(self, model: nn.Module):
        raise RuntimeError(f"{type(self).__name__} is not ready: give it to ul.unlearn as parts=(...,)")


def on_board(program, part: Part):
    """`program` with one more part that is ready."""
    return replace(program, parts=(*program.parts, part))


def check_number(part: Part, field: str, low: float, high: float = math.inf, *, above=False, whole=False) -> None:
    """ValueError unless the field of `part` is a finite number in [low, high].

    above   it must be more than low; whole   it must be a whole number
    """
    value, kind = getattr(part, field), numbers.Integral if whole else numbers.Real
    fits = isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high and value < math.inf
    if not fits or (above and value == low):
        limits = f"{'>' if above else '>='} {low:g}" + (f" and <= {high:g}" if high < math.inf else "")
        raise ValueError(f"{type(part).__name__} needs {field} {limits}{', a whole number' * whole}, not {value!r}")
