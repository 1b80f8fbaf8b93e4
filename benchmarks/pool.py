"""The models of the leaderboard, trained, unlearned and asked example by example; resumable, one thread a process.

python benchmarks/pool.py train 0 1 2 3                     originals of the pool
python benchmarks/pool.py retrain random 0 1                the same without what they are asked to forget
python benchmarks/pool.py tune 0.05 scrub msg               hyper-parameters within 5 % of a retraining
python benchmarks/pool.py unlearn random 0.05 0-15 scrub    and with them, every model of the pool
python benchmarks/pool.py board random 0.05 0-7 scrub       the tables of the leaderboard, from what is there
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from _machine import ENVIRONMENT  # noqa: E402

ENVIRONMENT = {**ENVIRONMENT, "UNLEARN_FAST": "1"}
TRIALS = 5
ASKED_TEST, ASKED_RETAIN = 5000, 1000  # pictures whose accuracy is measured, beside all targets


def keep(path: Path, facts: dict) -> None:
    """Write facts, all or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(facts))
    os.replace(partial, path)


def trained(folder: Path, name: str, positions, seed: int):
    """Train one network on the pictures at `positions`, or load it where that was done; it is kept with its cost."""
    from _pool import network, pool, recipe

    from unlearnlib import training
    from unlearnlib.training import weights

    path, p = folder / f"{name}.safetensors", pool()
    if path.exists():
        return weights.load(network(seed), path)
    began = time.process_time()
    model = training.fit(network(seed), p.train[positions], recipe(), seed, progress=False)
    spent = time.process_time() - began
    weights.save(model, path)
    keep(path.with_suffix(".json"), {"seed": seed, "pictures": len(positions), "core-seconds": round(spent, 1)})
    answered(folder, name, model)
    return model


def answered(folder: Path, name: str, model, **facts) -> None:
    """Keep the margins of all targets, and the accuracies on test and retained pictures and on the targets."""
    import numpy as np
    from _pool import pool

    from unlearnlib.audit.statistics.roc import margin
    from unlearnlib.training.prediction import predict

    p = pool()
    logits = predict(model, p.train[p.targets])
    right = {"test": p.test[:ASKED_TEST], "retain": p.train[p.always[:ASKED_RETAIN]]}
    shares = {part: float((predict(model, e).argmax(1) == e.labels).double().mean()) for part, e in right.items()}
    labels = p.train.labels[p.targets]
    np.savez(
        folder / f"{name}.npz",
        margin=margin(logits.numpy(), labels.numpy()).astype(np.float32),
        right=(logits.argmax(1) == labels).numpy(),
        facts=json.dumps({**shares, **facts}),
    )
    print(name, shares, facts, flush=True)


def unlearn(folder: Path, request: str, budget: float, numbers, names) -> None:
    from _pool import DEVELOPMENT, network, pool
    from _pool_methods import Request, tuned, unlearned

    p = pool()
    start = trained(folder, f"original-{DEVELOPMENT}", p.members(DEVELOPMENT), DEVELOPMENT)
    chosen = {name: tuned(name, p, start, budget, TRIALS, folder)["hyperparameters"] for name in names}
    for m in numbers:
        if not (folder / f"original-{m}.safetensors").exists():
            continue
        todo = [n for n in names if not (folder / f"{request}-{budget:g}-{n}-{m}.npz").exists()]
        model = trained(folder, f"original-{m}", p.members(m), m) if todo else None
        for name in todo:
            asked = Request.of(p, m, request, network(m))
            done, cost, seconds, kept = unlearned(name, model, asked, budget, 3_000_000 + m, chosen[name])
            facts = {"cost": cost, "seconds": seconds, "kept": kept}
            answered(folder, f"{request}-{budget:g}-{name}-{m}", done, **facts)


def written(folder: Path, request: str, budget: float, numbers, names) -> None:
    """Write the tables of the leaderboard beside the other results."""
    from _pool_board import board

    rows, examples = board(folder, request, budget, names, numbers)
    results = Path(__file__).resolve().parents[1] / "book/benchmarks"
    for name, table in ((f"cifar10-{request}", rows), (f"cifar10-{request}-examples", examples)):
        partial = results / f".{name}.partial"
        table.to_parquet(partial, index=False)
        os.replace(partial, results / f"{name}.parquet")
    print(rows.groupby(["method", "audit", "statistic"], sort=False)["value"].agg(["mean", "std"]).round(3).to_string())


def numbered(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/unlearnlib-pool")
    parser.add_argument("what", choices=("train", "retrain", "tune", "unlearn", "board"))
    parser.add_argument("given", nargs="*")
    args = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    import torch
    from _pool import DEVELOPMENT, pool
    from _pool_methods import tuned

    args.folder.mkdir(parents=True, exist_ok=True)
    p, folder = pool(), args.folder
    if args.what == "train":
        for m in [m for text in args.given for m in numbered(text)]:
            trained(folder, f"original-{m}", p.members(m), m)
    elif args.what == "retrain":
        request, *several = args.given
        for m in [m for text in several for m in numbered(text)]:
            mine, gone = p.members(m), p.forgotten(m, request)
            trained(folder, f"retrain-{request}-{m}", mine[~torch.isin(mine, gone)], 1000 + m)
    elif args.what == "tune":
        budget, *names = args.given
        start = trained(folder, f"original-{DEVELOPMENT}", p.members(DEVELOPMENT), DEVELOPMENT)
        for name in names:
            tuned(name, p, start, float(budget), TRIALS, folder)
    elif args.what == "board":
        request, budget, models, *names = args.given
        written(folder, request, float(budget), numbered(models), names)
    else:
        request, budget, models, *names = args.given
        unlearn(folder, request, float(budget), numbered(models), names)


if __name__ == "__main__":
    main()
