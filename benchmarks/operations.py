"""The most expensive operations of the book's quick tier: torch's profiler over cut-down runs of three chapters.

Each run trains and unlearns as its chapter does, with fewer passes and one seed, in pinned mode, in a process of its
own. An operation's time is its own, without that of the operations it calls, and its share is of the whole run, so that
the shares leave room for Python between operations. Being watched costs every operation some microseconds, so small
ones look somewhat more expensive than they are. Not a part of `python benchmarks`, since it has no peer:

    python benchmarks/operations.py            write book/benchmarks/operations.json
"""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "book/benchmarks/operations.json"
CHAPTERS = ("01", "03", "07")
SHOWN = 10


def chapter_01():
    """Two originals of a perceptron on MNIST-5k, and the three methods of the chapter."""
    import unlearnlib as ul
    from unlearnlib import data, models, training

    ds = data.load("mnist5k")
    split = data.split(ds, forget="random:0.1", seed=0)
    recipe = training.Recipe(epochs=5)

    def work() -> None:
        original = training.fit(models.build("mlp", ds, seed=0), split.train, recipe, 0, progress=False)
        training.fit(models.build("mlp", ds, seed=1), split.retain, recipe, 1, progress=False)
        for name in ("finetune", "neggrad_plus", "random_labels"):
            ul.unlearn(name, original, split, seed=0, epochs=3)

    return work


def chapter_03():
    """Shards, one deletion from them, and one network for each class, on digits."""
    from unlearnlib import data, models
    from unlearnlib.exact.modules import ClassModules
    from unlearnlib.exact.sisa import Sisa
    from unlearnlib.training import Recipe

    ds = data.load("digits")
    recipe = Recipe(epochs=5, batch_size=16, optimiser="adamw", lr=2e-3, schedule="constant")

    def work() -> None:
        learner = Sisa(lambda s: models.build("mlp", ds, seed=s), recipe, shards=5, slices=4, seed=0).fit(ds.train)
        learner.forget([7])
        ClassModules(seed=0, steps=100).fit(ds.train)

    return work


def chapter_07():
    """A perceptron on digits, and the chapter's methods that are made of batches."""
    import unlearnlib as ul
    from unlearnlib import data, models, training

    ds = data.load("digits")
    split = data.split(ds, forget="random:0.1", seed=0)
    methods = ("finetune", "neggrad", "neggrad_plus", "random_labels", "salun", "scrub", "bad_teacher", "l1_sparse")

    def work() -> None:
        start = models.build("mlp", ds, seed=0, hidden=(128, 64))
        original = training.fit(start, split.train, training.Recipe(epochs=10), 0, progress=False)
        for name in methods:
            ul.unlearn(name, original, split, seed=0, epochs=2)

    return work


def profiled(chapter: str, out) -> None:
    """Seconds of the run, and operation -> (own seconds, calls), into the pipe `out`."""
    from unlearnlib.publishing import bookkeeping

    bookkeeping.pin_numerics(fast=False)
    from torch.profiler import ProfilerActivity, profile

    work = globals()[f"chapter_{chapter}"]()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as watched:
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
    found = {event.key: (event.self_cpu_time_total / 1e6, event.count) for event in watched.key_averages()}
    out.send((seconds, found))


def measured(chapter: str) -> tuple[float, dict]:
    """`profiled` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=profiled, args=(chapter, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit(f"chapter {chapter} failed: see the traceback above") from None
    finally:
        process.join()


def summed(runs: dict[str, tuple[float, dict]]) -> dict:
    """Shares of the runs, which weigh equally, of the most expensive operations."""
    names = {name for _, found in runs.values() for name in found}
    operations = []
    for name in names:
        shares = {chapter: found.get(name, (0.0, 0))[0] / seconds for chapter, (seconds, found) in runs.items()}
        calls = sum(found.get(name, (0.0, 0))[1] for _, found in runs.values())
        operations.append({"operation": name, "share": sum(shares.values()) / len(runs), "calls": calls, **shares})
    inside = sum(o["share"] for o in operations)
    operations.sort(key=lambda o: -o["share"])
    return {"between": 1 - inside, "chapters": list(runs), "operations": operations[:SHOWN]}


def main() -> None:
    found = summed({chapter: measured(chapter) for chapter in CHAPTERS})
    partial = RESULTS.with_name(f".{RESULTS.name}.partial")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, RESULTS)
    for operation in found["operations"]:
        print(f"{operation['operation']:40s} {operation['share']:6.1%}")


if __name__ == "__main__":
    main()
