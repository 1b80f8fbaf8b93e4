"""Features as integers, on a grid that follows the data's scale: sums and products of integers have no order.

    code(x) = round(x / u),    u = 2^(e - bits),    e the exponent of the largest |x|, so that |code| <= 2^bits

Scaling all data by a power of two changes no code. The grid depends on the data, so it has to forget as well: the
learners take e over the examples that remain, and code anew where a deletion lowers it (which is rare, because it
takes the last value of the highest binade).
"""

import numpy as np

NOTHING = -4096  # the exponent of zero: below that of any number


def exponents(x: np.ndarray) -> np.ndarray:
    """e with |x| < 2^e <= 2 |x|, for each entry; `NOTHING` for zeros."""
    return np.where(x == 0, NOTHING, np.frexp(x)[1])


def codes(x: np.ndarray, exponent, bits: int) -> np.ndarray:
    """round(x 2^(bits - exponent)) as int64; `exponent` is one number, or one for each column of x."""
    return np.rint(np.ldexp(x, bits - np.asarray(exponent))).astype(np.int64)
