"""Papers re-run: published numbers under their published settings, one run a row and seed.

Every (row, seed) is run once and kept in `book/benchmarks/papers.json`, so that an interrupted series goes on where it
was. MNIST comes from $UNLEARN_DATA or a download. Minutes are CPU time of one thread.

    python benchmarks/papers.py                      the rows, what is kept of each, and what one run costs
    python benchmarks/papers.py opacus-1.16 0 1 2    three runs of one row
    python benchmarks/papers.py forest-toy 0 --check run again and compare with what is kept; nothing is written
    python benchmarks/papers.py --ledger             write the lines of `book/papers.csv` that follow from these runs

The settings are in `_papers_private.py` and `_papers_unlearning.py`, the statements in `_papers_statements.py`.
"""

import argparse
import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from _machine import ENVIRONMENT, machine  # noqa: E402

from unlearnlib.publishing.bookkeeping import PINS, pin_numerics  # noqa: E402

RESULTS = ROOT / "book/benchmarks/papers.json"


def rows() -> dict:
    """Name -> function of a seed. Imported late: torch reads its environment when it is imported."""
    import _papers_private as private
    import _papers_unlearning as unlearning

    return {
        "opacus-epsilon": private.opacus_epsilon,
        "tensorflow-epsilon": private.tensorflow_epsilon,
        "opacus-1.16": partial(private.opacus_accuracy, row="1.16"),
        "opacus-1.16-2020": partial(private.opacus_accuracy, row="1.16", as_of=2020),
        "opacus-6.86": partial(private.opacus_accuracy, row="6.86"),
        "opacus-2.91": partial(private.opacus_accuracy, row="2.91"),
        "opacus-without-noise": private.opacus_plain,
        "opacus-without-noise-2020": partial(private.opacus_plain, as_of=2020),
        "tensorflow-2-epochs": private.tensorflow_accuracy,
        "tensorflow-2-epochs-poisson": partial(private.tensorflow_accuracy, sampling="poisson"),
        "tensorflow-60-epochs": partial(private.tensorflow_accuracy, epochs=60),
        "langevin-noise": private.langevin_noise,
        "langevin-smoothness": private.langevin_smoothness,
        "langevin-mnist": private.langevin_and_descent,
        "forest-toy": unlearning.forest_toy,
        "amnesiac": partial(unlearning.amnesiac, epochs=10, after=10),
        "amnesiac-short": partial(unlearning.amnesiac, epochs=2, after=1),
    }


def kept() -> list[dict]:
    return json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []


def keep(run: dict) -> None:
    """Add a run to the file, all or nothing."""
    others = [r for r in kept() if (r["row"], r["seed"]) != (run["row"], run["seed"])]
    runs = sorted([*others, run], key=lambda r: (r["row"], r["seed"]))
    partial_file = RESULTS.with_name(f".{RESULTS.name}.partial")
    partial_file.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial_file, RESULTS)


def write_ledger() -> None:
    """Our lines first, then those of readers as they stand; all or nothing."""
    from _papers_statements import lines

    from unlearnlib.publishing import papers

    os.chdir(ROOT)
    readers = [line for line in papers.read() if line.page == papers.READERS] if papers.LEDGER.exists() else []
    papers.write([*lines(), *readers])


def run_once(row: str, seed: int) -> dict:
    """One run: its numbers and minutes."""
    pin_numerics()
    began = time.process_time()
    numbers = {name: round(float(value), 8) for name, value in rows()[row](seed).items()}
    return {"row": row, "seed": seed, "minutes": round((time.process_time() - began) / 60, 3), "numbers": numbers}


def close(value: float, kept_value: float | None) -> bool:
    return kept_value is not None and math.isclose(value, kept_value, rel_tol=1e-5, abs_tol=1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("row", nargs="?")
    parser.add_argument("seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--check", action="store_true", help="compare with what is kept; nothing is written")
    parser.add_argument("--ledger", action="store_true", help="write book/papers.csv")
    args = parser.parse_args()
    wanted = {**ENVIRONMENT, **PINS}
    if any(os.environ.get(name) != value for name, value in wanted.items()):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    done = {(r["row"], r["seed"]): r for r in kept()}
    if args.ledger:
        write_ledger()
        return
    if args.row is None:
        for name in rows():
            runs = [r for (row, _), r in done.items() if row == name]
            cost = f", {max(r['minutes'] for r in runs):.1f} minutes a run" if runs else ""
            print(f"{name}: {len(runs)} runs kept{cost}")
        return
    if args.row not in rows():
        parser.error(f"no row {args.row!r}: there are {', '.join(rows())}")
    for seed in args.seeds:
        earlier = done.get((args.row, seed))
        if earlier and not args.check:
            continue
        found = run_once(args.row, seed)
        print(found, flush=True)
        if args.check and earlier:
            before = earlier["numbers"]
            moved = {k: (before.get(k), v) for k, v in found["numbers"].items() if not close(v, before.get(k))}
            print(
                f"numbers that differ from what is kept by more than a hundred-thousandth: {moved or 'none'}",
                flush=True,
            )
        if not args.check:
            keep(found)


if __name__ == "__main__":
    main()
