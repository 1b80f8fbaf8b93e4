"""Numbers for a page: estimates at the precision that their interval justifies, and tables that anyone can read."""

import html
import math
import numbers
from collections.abc import Mapping, Sequence

MISSING = "n/a"
_ROUNDING = 1e-6  # of a value: an interval of single precision's rounding is none
_MOST = 4  # decimals that a row may have beyond those of its column


def _rounded(value: float, decimals: int) -> str:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    text = f"{round(value, decimals):.{max(decimals, 0)}f}"
    return text.lstrip("-") if float(text) == 0 else text  # no minus zero


def estimate(value: float, low: float, high: float, decimals: int | None = None) -> str:
    """`0.912 ± 0.007`: an estimate with the half-width of its interval, to two significant digits of the whole width.

    decimals    fixed by a column; by default the interval's own

    Digits beyond those describe the seed, not the quantity. An interval whose sides differ by more than a quarter shows
    both, `0.98 +0.02 -0.12`; else the larger side stands for the two. An open interval (`inf`) is rounded by its finite
    side, a missing number gives `n/a`. Raises ValueError if low > high.
    """
    value, low, high = float(value), float(low), float(high)
    decimals = estimate_decimals(value, low, high) if decimals is None else decimals
    if math.isnan(value):
        return MISSING
    if math.isnan(low) or math.isnan(high):
        return f"{_rounded(value, decimals)} ± {MISSING}"
    if low > high:
        raise ValueError(f"an interval runs from low to high, not from {low} to {high}")
    down, up = value - low, high - value
    shown = [_rounded(side, decimals) for side in (up, down)]
    even = shown[0] == shown[1] or (min(down, up) >= 0 and max(down, up) <= 1.25 * min(down, up))
    if even or max(down, up) - min(down, up) <= 1.01 * 10.0**-decimals:
        return f"{_rounded(value, decimals)} ± {_rounded(max(down, up), decimals)}"
    return f"{_rounded(value, decimals)} {f'+{shown[0]} -{shown[1]}'.replace('+-', '-').replace('--', '+')}"


def estimate_decimals(value: float, low: float, high: float) -> int:
    """How many decimals `estimate` shows; negative where it rounds to tens and more."""
    value, low, high = float(value), float(low), float(high)
    if math.isnan(value) or math.isnan(low) or math.isnan(high):
        return 0 if math.isnan(value) else _decimals(abs(value), 3)
    width = _width(value, low, high)
    return _decimals(width, 2) if width > 0 else _decimals(abs(value), 4)


def _width(value: float, low: float, high: float) -> float:
    """The width of an interval, twice its finite side where it is open; none where it is rounding error only."""
    ends = [abs(end - value) for end in (low, high) if math.isfinite(end) and end != value]
    width = high - low if math.isfinite(high - low) else 2 * max(ends, default=0.0)
    return width if width > _ROUNDING * abs(value) else 0.0


def _decimals(size: float, significant: int) -> int:
    """Decimals that show `significant` digits of a number of this size (negative: round to tens, hundreds, ...)."""
    if size == 0 or not math.isfinite(size):
        return significant - 1
    # Through the decimal exponent of the rounded number, so that 0.0996 counts as 0.10.
    return significant - 1 - int(f"{size:.{significant - 1}e}".partition("e")[2])


def _companions(column: str) -> list[tuple[str, str]]:
    """Names under which the interval of a column may stand beside it."""
    if column == "value":
        return [("ci_lo", "ci_hi"), ("lo", "hi"), ("low", "high")]
    base = column.removesuffix("_value")
    return [(f"{b}_{low}", f"{b}_{high}") for b in (column, base) for low, high in (("lo", "hi"), ("low", "high"))]


def shared_decimals(triples: Sequence[tuple[float, float, float]]) -> list[int]:
    """Decimals of each (value, low, high) of a column: rows of one scale agree, and no row loses its interval.

    Every interval asks for a number of its own (`estimate_decimals`). It puts up with one decimal more, and with one
    less while its half-width is two units or more, so that rounding changes it by a quarter at most. The column takes
    the number that most rows put up with, of two such the smaller. Rows of another scale, such as those of another
    unit, keep their own, which is four at most where the column has fewer: `94.6 ± 0.6` may stand over
    `0.953 ± 0.004` and over `1230 ± 230`. A value without an interval follows a column in which all rows agree.
    """
    known = [tuple(map(float, triple)) for triple in triples]
    own = [estimate_decimals(*triple) for triple in known]
    fine = [
        _accepted(d, *t) if not any(map(math.isnan, t)) and _width(*t) > 0 else set()
        for d, t in zip(own, known, strict=True)
    ]
    asked = sorted(set().union(*fine))
    if not asked:
        return [max((d for d, t in zip(own, known, strict=True) if not math.isnan(t[0])), default=0)] * len(own)
    shared = max(asked, key=lambda d: (sum(d in accepted for accepted in fine), -d))
    agreed = all(shared in accepted for accepted in fine if accepted)
    return [
        shared if shared in accepted or (agreed and not accepted) else min(d, max(shared, _MOST))
        for d, accepted in zip(own, fine, strict=True)
    ]


def _accepted(decimals: int, value: float, low: float, high: float) -> set[int]:
    """The decimals that an interval puts up with, which asks for `decimals`."""
    side = max(abs(end - value) for end in (low, high) if math.isfinite(end))
    return {decimals, decimals + 1} | ({decimals - 1} if side >= 2 * 10.0 ** (1 - decimals) else set())


def _merged(frame):
    """The frame with every (value, low, high) triple of columns as one column of estimates, and their names."""
    frame, estimates = frame.copy(), []
    for column in list(frame.columns):
        pair = next((p for p in _companions(str(column)) if set(p) <= set(frame.columns)), None)
        if pair:
            triples = list(zip(frame[column], frame[pair[0]], frame[pair[1]], strict=True))
            decimals = shared_decimals(triples)
            frame[column] = [estimate(*triple, d) for triple, d in zip(triples, decimals, strict=True)]
            frame = frame.drop(columns=list(pair))
            estimates.append(str(column))
    return frame, estimates


def _flat(frame):
    """The frame with its index as ordinary columns; how many columns name the row; and column names as text."""
    unnamed = frame.index.nlevels == 1 and frame.index.name is None
    numbered = unnamed and list(frame.index) == list(range(len(frame)))
    if unnamed and not numbered:
        raise ValueError("name the index of the table (frame.rename_axis(...)): it heads the first column")
    if not numbered and None in frame.index.names:
        raise ValueError("name all levels of the index: they head the first columns")
    heads = 1 if numbered else frame.index.nlevels
    frame = frame.reset_index(drop=numbered)
    frame.columns = [" ".join(map(str, c)).strip() if isinstance(c, tuple) else str(c) for c in frame.columns]
    if len(set(frame.columns)) < len(frame.columns) or "" in set(frame.columns):
        raise ValueError("every column of the table needs a name of its own")
    return frame, heads


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _text(value: object, missing: bool, decimals: int) -> str:
    if missing:
        return MISSING
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    return _rounded(float(value), decimals) if _is_number(value) else str(value)


def _cells(frame, digits: int | Mapping[str, int] | None) -> list[list[str]]:
    """The text of every column. Floats of one column share their decimals: three digits of the largest.

    A number that would read as zero and is none has two digits of its own, as far as six decimals show them.
    """
    known = digits if isinstance(digits, Mapping) else {}
    for name in known:
        if name not in frame.columns:
            raise ValueError(f"digits names {name!r}, the table has {', '.join(frame.columns)}")
    columns = []
    for name, missing in frame.isna().items():
        floats = [abs(float(v)) for v in frame[name] if _is_number(v) and math.isfinite(v)]
        free = min(max(_decimals(max(floats, default=0.0), 3), 0), 6)
        fixed = known.get(name, digits if isinstance(digits, int) else None)
        column = []
        for value, gone in zip(frame[name], missing, strict=True):
            decimals = free if fixed is None else fixed
            if fixed is None and _is_number(value) and not gone and 0 < abs(float(value)) < 0.5 * 10.0**-free:
                wanted = _decimals(abs(float(value)), 2)
                decimals = wanted if wanted <= 6 else free
            column.append(_text(value, gone, decimals))
        columns.append(column)
    return columns


def render(
    frame, digits: int | Mapping[str, int] | None = None, caption: str = "", lead: Sequence[str] = ()
) -> dict[str, str]:
    """A DataFrame as {"text/plain", "text/html"}: a static table that a screen reader can follow.

    digits      decimals of floating columns, for all or by column; by default three digits of the largest entry
    caption     shown above, and the name of the table for a screen reader
    lead        of a table with more than five columns, those that the book shows before the whole table is unfolded;
                by default the first ones, and the cost

    A column with its interval beside it (`x`, `x_low`, `x_high`; `value`, `ci_lo`, `ci_hi`) becomes one column of
    estimates. Index levels are row headers, every column has a header, no identifier is random. Raises ValueError on
    an index or a column without a name, and on a leading column that the table has not.
    """
    frame, estimates = _merged(frame)
    frame, heads = _flat(frame)
    for name in lead:
        if name not in frame.columns:
            raise ValueError(f"lead names {name!r}, the table has {', '.join(frame.columns)}")
    columns = _cells(frame, digits)
    is_number = [name in estimates or all(map(_is_number, frame[name])) for name in frame.columns]
    style = [' class="number"' if number else "" for number in is_number]
    head = "".join(f'<th scope="col"{s}>{html.escape(n)}</th>' for n, s in zip(frame.columns, style, strict=True))
    body = []
    for row in zip(*columns, strict=True):
        cells = [
            f'<th scope="row"{s}>{html.escape(text)}</th>' if i < heads else f"<td{s}>{html.escape(text)}</td>"
            for i, (text, s) in enumerate(zip(row, style, strict=True))
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    label = html.escape(caption or "table", quote=True)
    leading = f' data-lead="{html.escape("|".join(lead), quote=True)}"' if lead else ""
    lines = [
        f'<div class="table-wrap" role="region" tabindex="0" aria-label="{label}">',
        f'<table class="dataframe"{leading}>{title}<thead><tr>{head}</tr></thead>',
        f"<tbody>{chr(10).join(body)}</tbody></table></div>",
    ]
    widths = [max(map(len, [name, *column])) for name, column in zip(frame.columns, columns, strict=True)]
    rows = [list(frame.columns), *map(list, zip(*columns, strict=True))]
    plain = [
        "  ".join(t.rjust(w) if n else t.ljust(w) for t, w, n in zip(row, widths, is_number, strict=True)).rstrip()
        for row in rows
    ]
    return {"text/plain": "\n".join([*([caption] if caption else []), *plain]), "text/html": "\n".join(lines)}
