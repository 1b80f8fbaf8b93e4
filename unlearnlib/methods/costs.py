"""The language in which methods declare their cost: a formula in hyper-parameters and sizes, in units of work.

    cost="gradient * epochs * seen(R, batch_size) + forward * F"

The unit is a forward pass of one example (see `training.work`). A formula without "at most" in front is exact, for
small and uneven sets too. It may use, beside the method's hyper-parameters and Python's arithmetic and conditions,

    F, R, V        examples in the forget, retain and validation set
    C, P           classes, and trainable weights
    M              multiplications of a forward pass of one example: P in a dense network, more where weights are shared
    seen(n, b)     examples in the batches of one pass over n, in batches of b: the incomplete last one is left out,
                   unless the hyper-parameter `keep_last` says otherwise, or a third argument
    steps(n, b)    batches in that pass (not where a hyper-parameter is called `steps`)
    forward, gradient, jvp, hvp, ...      the units of `training.UNITS`
    min, max, round, ceil, floor
"""

import dataclasses
import math
from collections.abc import Mapping

from unlearnlib.training import batches
from unlearnlib.training.work import UNITS

AT_MOST = "at most "


def evaluated(name: str, formula: str, config, sizes: Mapping[str, int]) -> float:
    """The value of a declared formula. Raises ValueError where there is none, or it does not compute."""
    if not formula:
        raise ValueError(f"{name} declares no cost: register it with cost=, such as 'gradient * epochs * R'")
    last = getattr(config, "keep_last", False)
    names = {
        **UNITS,
        **sizes,
        **{"min": min, "max": max, "round": round, "ceil": math.ceil, "floor": math.floor},
        "seen": lambda n, batch, keep_last=last: batches.seen(n, batch, keep_last),
        "steps": lambda n, batch, keep_last=last: batches.steps(n, batch, keep_last),
        **{f.name: getattr(config, f.name) for f in dataclasses.fields(config)},  # they come first: some have `steps`
        "__builtins__": {},
    }
    try:
        return float(eval(formula.removeprefix(AT_MOST), names))  # written by whoever registers the method
    except (ArithmeticError, AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"the cost of {name}, {formula!r}, does not compute: {error}") from None
