"""Checks of hyper-parameters, one line each."""

from unlearnlib.data import doors


def numbers(least: float = 0.0, most: float = float("inf"), *, above: bool = False, **values) -> None:
    """ValueError unless every value is a finite number from `least` (or above it) to `most`."""
    for name, value in values.items():
        if not doors.real(value) or not least <= value <= most or (above and value == least):
            start = f"above {least:g}" if above else f"of {least:g} or more"
            end = "" if most == float("inf") else f", and {most:g} at most"
            raise ValueError(f"{name} must be a number {start}{end}, not {value!r}")
