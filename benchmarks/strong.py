"""A strong network for CIFAR-10 on a processor: accuracy of `whitened` on the test set, and what it cost.

All 50,000 training pictures, one thread. A member is a network and its recipe; each (member, seed) is trained once and
kept in `book/benchmarks/strong.json`, so that an interrupted series goes on where it was.

    python benchmarks/strong.py small 0 1 2          seeds 0 to 2 of the small member
    python benchmarks/strong.py small 0 --check 2    two passes over 10,000 pictures, tested on 5,000 others; not kept

`python benchmarks strong` shows what is kept beside the goals, and trains nothing.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from _machine import ENVIRONMENT, machine  # noqa: E402
from _ratios import row  # noqa: E402

RESULTS = Path(__file__).resolve().parents[1] / "book/benchmarks/strong.json"
MEMBERS = {  # widths, passes, the accuracy to reach and the core-seconds allowed for it
    "small": dict(widths=(64, 128, 256), epochs=8, accuracy=0.915, budget=600),
    "medium": dict(widths=(64, 256, 256), epochs=10, accuracy=0.93, budget=1000),
}


def trained(member: str, seed: int, check: int | None) -> dict:
    """Train one network and test it, plainly and on the mean of the logits of both sides of a picture."""
    from unlearnlib import data, training
    from unlearnlib.training import models, recipes

    settings, ds = MEMBERS[member], data.load("cifar10")
    recipe = replace(recipes.recipe_for("cifar10", "whitened"), epochs=check or settings["epochs"])
    train, test = (ds.train[:10_000], ds.train[-5_000:]) if check else (ds.train, ds.test)
    start = models.build("whitened", ds, seed=seed, widths=settings["widths"])
    began = time.process_time()
    model = training.fit(start, train, recipe, seed, progress=False)
    spent = time.process_time() - began
    mirrored = replace(test, images=test.images.flip(3))
    logits = training.predict(model, test)
    both = logits + training.predict(model, mirrored)
    plain, flipped = (float((z.argmax(1) == test.labels).double().mean()) for z in (logits, both))
    return {
        "member": member,
        "seed": seed,
        "widths": list(settings["widths"]),
        "recipe": asdict(recipe),
        "accuracy": plain,
        "accuracy, mean over flips": flipped,
        "core-seconds": round(spent, 1),
        "pictures per core-second": round(recipe.epochs * len(train) / spent, 1),
    }


def kept() -> list[dict]:
    return json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []


def keep(run: dict) -> None:
    """Add a run to the file, all or nothing."""
    others = [r for r in kept() if (r["member"], r["seed"]) != (run["member"], run["seed"])]
    runs = sorted([*others, run], key=lambda r: (r["member"], r["seed"]))
    partial = RESULTS.with_name(f".{RESULTS.name}.partial")
    partial.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, RESULTS)


def run(repeats: int = 3) -> list[dict]:
    """What is kept, as rows: accuracy and core-seconds of each member over its seeds, beside their goals."""
    rows = []
    for member, settings in MEMBERS.items():
        runs = [r for r in kept() if r["member"] == member]
        if runs:
            over, goal = f"CIFAR-10, {member} `whitened`, {len(runs)} seeds", settings["accuracy"]
            spent = [settings["budget"] / r["core-seconds"] for r in runs]
            rows.append(row(f"{over}: test accuracy", [r["accuracy"] for r in runs], goal, "of pictures"))
            rows.append(row(f"{over}: {settings['budget']} core-seconds against ours", spent, 1))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("member", choices=MEMBERS)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--check", type=int, metavar="EPOCHS", help="a short look on training pictures; not kept")
    args = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    done = set() if args.check else {(r["member"], r["seed"]) for r in kept()}
    for seed in args.seeds:
        if (args.member, seed) not in done:
            found = trained(args.member, seed, args.check)
            print({name: value for name, value in found.items() if name != "recipe"}, flush=True)
            if not args.check:
                keep(found)


if __name__ == "__main__":
    main()
