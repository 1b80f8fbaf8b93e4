"""The audit of audits at the size of CIFAR-10: audits that need margins alone, on phantoms of a known residual.

    python benchmarks/audits_cifar.py      under a core-minute, from the networks that `pool.py` kept

Nothing is trained. Of the networks in the pool's blocks, each target was seen by half and never seen by the others. A
phantom is a change of who counts as what: for each target two networks that never saw it stay *never seen*, and two are
said to have *forgotten* it: with probability r two of those that saw it, else two more that did not. So the share r of
all forgotten examples is answered by networks that know them, and r = 0 is retraining. Each draw of these roles is one
split. Writes `book/benchmarks/audits-cifar10.json`.

Audits of one network judge each row of a split by itself, with examples as if they were independent; references are
never-seen rows of a target. U-LiRA has one other network a side, as eight networks allow no more beside a null:

    score = ((s - reference)^2 - (s - sibling)^2) / 2,    sibling and reference: another row that forgot, never saw x

The p-value of KLoM comes from splits with r = 0 that are drawn for it alone. Splits share the networks, so they are no
independent draws: shares of rejections of the audits of one network carry Student's interval over networks, those of
KLoM none.
"""

import json
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _pool import BLOCK, pool
from _pool_board import klom_each
from scipy.special import expit
from scipy.stats import ks_2samp, norm, spearmanr

from unlearnlib.audit.attacks.rmia import rmia
from unlearnlib.audit.statistics.intervals import t_interval
from unlearnlib.audit.statistics.roc import roc
from unlearnlib.audit.statistics.state import FORGET, NEVER
from unlearnlib.seeding import numpy_generator
from unlearnlib.store.files import write

RESULT = Path(__file__).resolve().parents[1] / "book/benchmarks/audits-cifar10.json"
SHARES = (0.0, 0.03, 0.1, 0.25, 0.5, 1.0)
SPLITS, OF_KLOM, NULLS, LEVEL = 12, 100, 200, 0.05  # splits for audits of a network, for KLoM, and for its null
POOL = Path.home() / ".cache/unlearnlib-pool"
UNUSED = 0  # neither FORGET nor NEVER: of no role


def phantom(seen: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Roles [models, targets] for a residual of `share`; `seen` says which model saw which target."""
    order = np.argsort(rng.random(seen.shape) + 2 * seen, axis=0)  # who never saw it first, in random order
    half = (~seen).sum(0) // 2
    if not (half == half[0]).all() or (seen.sum(0) < half[0]).any():
        raise ValueError("phantoms need a balanced pool: as many models that saw a target as did not")
    half, fresh = int(half[0]), (~seen).sum(0)
    knows = rng.random(seen.shape[1]) < share
    roles = np.full(seen.shape, UNUSED, np.int8)
    for i in range(half):
        np.put_along_axis(roles, order[i : i + 1], NEVER, axis=0)
        known, new = (np.take_along_axis(order, at[None], axis=0) for at in (fresh + i, np.full_like(fresh, half + i)))
        np.put_along_axis(roles, np.where(knows, known, new), FORGET, axis=0)
    return roles


def of_one(margins: np.ndarray, roles: np.ndarray, m: int, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Audits of row m: name -> statistic, p-value. A reference is one never-seen row of each target, not m."""
    columns = np.arange(roles.shape[1])

    def other(role: int) -> np.ndarray:
        """The margin of a random row of this role, not m, for each target."""
        there = roles == role
        there[m] = False
        return margins[np.argmax(rng.random(roles.shape) * there, axis=0), columns]

    reference, sibling = other(NEVER), other(FORGET)
    forgot, never = roles[m] == FORGET, roles[m] == NEVER
    truth = np.concatenate([np.ones(forgot.sum(), bool), np.zeros(never.sum(), bool)])

    def rank(scores: np.ndarray, who=truth) -> tuple[float, float]:
        found = roc(scores, who)
        return found.auc, float(norm.sf((found.auc - 0.5) / max(found.standard_error, 1e-12)))

    own = np.concatenate([margins[m, forgot], margins[m, never]])
    theirs = np.concatenate([reference[forgot], reference[never]])
    half = truth | (np.arange(len(truth)) % 2 == 0)  # every second never-seen target is RMIA's population
    p, q = expit(own), expit(theirs)
    ratio = (own - theirs) ** 2 - (own - np.concatenate([sibling[forgot], sibling[never]])) ** 2
    smirnov = ks_2samp(margins[m, forgot], reference[forgot])
    return {
        "population loss": rank(own),
        "calibrated margin": rank(own - theirs),
        "RMIA": rank(rmia(p[half], q[half][None], p[~half], q[~half][None]), truth[half]),
        "U-LiRA, one network a side": rank(ratio / 2),
        "Kolmogorov-Smirnov": (float(smirnov.statistic), float(smirnov.pvalue)),
    }


def klom(margins: np.ndarray, roles: np.ndarray) -> float:
    return float(klom_each(margins, margins, roles == FORGET, roles == NEVER).mean())


def of_pool(margins: np.ndarray, roles: np.ndarray, null: np.ndarray) -> tuple[float, float]:
    """KLoM of one split: statistic, p-value."""
    value = klom(margins, roles)
    return value, float(norm.sf((value - null.mean()) / null.std(ddof=1)))


def summary(found: dict, models: int) -> list[dict]:
    """One line an audit: rejections at each share, with limits over networks where it judges one, and the order."""
    lines = []
    for name, cells in found.items():  # cells: share -> [splits, models] of (statistic, p-value)
        rates = {share: (np.asarray(cell)[..., 1] <= LEVEL) for share, cell in cells.items()}
        single = rates[0.0].shape[1] == models
        shown = [
            t_interval(r.mean(0), bounds=(0, 1), count=len(r)).ends if single else (float(r.mean()), None, None)
            for r in rates.values()
        ]
        statistic = np.concatenate([np.asarray(cell)[..., 0].ravel() for cell in cells.values()])
        doses = np.repeat(list(cells), [np.asarray(cell)[..., 0].size for cell in cells.values()])
        line = {"audit": name, "of": "one network" if single else "the pool", "rejected": [list(s) for s in shown]}
        means = [float(np.asarray(cell)[..., 0].mean()) for cell in cells.values()]
        lines.append({**line, "statistic": means, "order": float(spearmanr(doses, statistic)[0])})
    return lines


def main(folder: Path = POOL) -> None:
    start = time.process_time()
    there = [m for m in range(64) if (folder / f"original-{m}.npz").exists()]
    models = len(there) // BLOCK * BLOCK  # whole blocks are balanced
    if not models or there[:models] != list(range(models)):
        raise SystemExit("no whole block of networks is there: run benchmarks/pool.py first")
    margins = np.stack([np.load(folder / f"original-{m}.npz")["margin"] for m in range(models)]).astype(np.float64)
    tests = [json.loads(str(np.load(folder / f"original-{m}.npz")["facts"]))["test"] for m in range(models)]
    seen = pool().state[:models] != NEVER
    null = np.array([klom(margins, phantom(seen, 0.0, numpy_generator(i, "cifar null"))) for i in range(NULLS)])
    found: dict[str, dict[float, list]] = {}
    for share in SHARES:
        for split in range(OF_KLOM):
            rng = numpy_generator(split, "cifar phantom", f"{share:g}")
            roles = phantom(seen, share, rng)
            single = [of_one(margins, roles, m, rng) for m in range(models if split < SPLITS else 0)]
            for name in single[0] if single else ():
                found.setdefault(name, {}).setdefault(share, []).append([one[name] for one in single])
            found.setdefault("KLoM", {}).setdefault(share, []).append([of_pool(margins, roles, null)])
    told = {
        "level": LEVEL,
        "models": models,
        "targets": margins.shape[1],
        "splits": SPLITS,
        "splits_of_klom": OF_KLOM,
        "shares": list(SHARES),
        "test_accuracy": [min(tests), max(tests)],
        "exposure": float(np.mean(roc_of(margins, seen))),
        "seconds": math.ceil(time.process_time() - start),
        "audits": summary(found, models),
    }
    write(RESULT, (json.dumps(told, indent=1) + "\n").encode())
    for line in told["audits"]:
        print(line["audit"], [round(r[0], 2) for r in line["rejected"]], round(line["order"], 2))


def roc_of(margins: np.ndarray, seen: np.ndarray) -> list[float]:
    """AUC of the margin between targets that a network saw and that it did not, one a network."""
    return [roc(row, truth).auc for row, truth in zip(margins, seen, strict=True)]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
