"""Checks of the numbers that guarantees depend on."""

from unlearnlib.data.doors import real


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def check_positive(**values: float) -> None:
    """ValueError unless every value is a finite number above 0."""
    for name, value in values.items():
        if not (real(value) and value > 0):
            raise ValueError(f"{name} must be a finite number above 0, not {value!r}")


def check_budget(epsilon: float, delta: float) -> None:
    """ValueError unless epsilon > 0 and 0 < delta < 1."""
    check_positive(epsilon=epsilon)
    if not (real(delta) and 0 < delta < 1):
        raise ValueError(f"delta must lie strictly between 0 and 1, not {delta!r}")
