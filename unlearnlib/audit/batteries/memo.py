"""What the rungs of a battery share: results that several of them need, and estimates that may be undefined."""

from collections.abc import Callable

from unlearnlib.audit.verdicts.tidy import NAN, Estimate


class Memo:
    """Results of functions on models, each computed once, for as long as one battery runs.

    Keys are the function and its arguments themselves, which the memo keeps alive; not their addresses, which another
    model may get once the first is gone.
    """

    def __init__(self):
        self._known: dict[tuple, object] = {}

    def __call__(self, function: Callable, *arguments):
        key = (function, *arguments)
        if key not in self._known:
            self._known[key] = function(*arguments)
        return self._known[key]


def attempt(
    audit: str, game: str, subset: str, statistic: str, compute: Callable, ci_method: str = "", **more
) -> Estimate:
    """The estimate whose value, or (value, low, high), `compute()` gives.

    Where it refuses, because the statistic is undefined on these examples, this estimate alone is invalid, with that
    reason; what else the battery finds stands.
    """
    try:
        found = compute()
    except ValueError as refusal:
        reason = " ".join(str(refusal).split())
        return Estimate(audit, game, subset, statistic, NAN, **{**more, "valid": False, "reason": reason})
    value, *ends = found if isinstance(found, tuple) else (found,)
    return Estimate(audit, game, subset, statistic, float(value), *map(float, ends), ci_method=ci_method, **more)
