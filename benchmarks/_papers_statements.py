"""The statements that the ledger makes of kept runs, and those that nobody ran here, with what a run would cost."""

from collections.abc import Iterator

import numpy as np

from unlearnlib.publishing.papers import Line, prediction, rounding, runs, verdict

PRIVACY, UNLEARNING = "notebooks/20-papers-rerun-privacy", "notebooks/21-papers-rerun-unlearning"
OPACUS, TENSORFLOW = "opacus, examples/mnist_README.md", "tensorflow/privacy, tutorials/README.md"
LANGEVIN = "Graph-COM/Langevin_unlearning"
# What is computed: source, statement, published, row of the command, number
COMPUTED = [
    (OPACUS, "epsilon, noise 1.3, 15 epochs", "1.16", "opacus-epsilon", "1.16, older conversion"),
    (OPACUS, "epsilon, noise 1.1, 60 epochs", "2.91", "opacus-epsilon", "2.91, older conversion"),
    (OPACUS, "epsilon, noise 0.7, 45 epochs", "6.86", "opacus-epsilon", "6.86, older conversion"),
    (TENSORFLOW, "epsilon, 1 epoch", "1.03", "tensorflow-epsilon", "1 epochs, older conversion"),
    (TENSORFLOW, "epsilon, 2 epochs", "1.11", "tensorflow-epsilon", "2 epochs, older conversion"),
    (TENSORFLOW, "epsilon, 60 epochs", "3.01", "tensorflow-epsilon", "60 epochs, older conversion"),
    (
        "dare_rf, README.md",
        "toy of five rows: probability of class 1 before the deletion",
        "0.5",
        "forest-toy",
        "class 1, before",
    ),
    (
        "dare_rf, README.md",
        "toy of five rows: probability of class 1 after the deletion",
        "1.0",
        "forest-toy",
        "class 1, after",
    ),
]
# Steps beyond k that a listed noise needs by the paper's own bound: statement, numbers of which the largest counts
LISTS = [
    ("the 12 noises listed for k = 2 and 5 need no more than k steps", "steps beyond k, largest", (2, 5)),
    ("the same without the two that are a hundred times below", "steps beyond k, largest but for slips", (2, 5)),
    ("the 6 noises listed for k = 1 need one step", "steps beyond k, largest", (1,)),
]
# What is drawn: source, statement, published, its runs, row, number, factor
DRAWN = [
    (
        OPACUS,
        "accuracy in %, epsilon 1.16, script as it is today",
        "94.63",
        10,
        "opacus-1.16",
        "accuracy, epoch 15",
        100,
    ),
    (
        OPACUS,
        "accuracy in %, epsilon 1.16, script of 2020, when the number was made",
        "94.63",
        10,
        "opacus-1.16-2020",
        "accuracy, epoch 15",
        100,
    ),
    (OPACUS, "accuracy in %, epsilon 6.86", "97.09", 10, "opacus-6.86", "accuracy, epoch 45", 100),
    (OPACUS, "accuracy in %, epsilon 2.91", "96.78", 10, "opacus-2.91", "accuracy, epoch 60", 100),
    (
        OPACUS,
        "accuracy in % without noise, script as it is today",
        "98.94",
        10,
        "opacus-without-noise",
        "accuracy, epoch 20",
        100,
    ),
    (
        OPACUS,
        "accuracy in % without noise, script of 2020",
        "98.94",
        10,
        "opacus-without-noise-2020",
        "accuracy, epoch 20",
        100,
    ),
    (TENSORFLOW, "accuracy after 1 epoch, one run", "0.774", 1, "tensorflow-2-epochs", "accuracy, epoch 1", 1),
    (TENSORFLOW, "accuracy after 2 epochs, one run", "0.877", 1, "tensorflow-2-epochs", "accuracy, epoch 2", 1),
    (TENSORFLOW, "accuracy after 60 epochs, one run", "0.966", 1, "tensorflow-60-epochs", "accuracy, epoch 60", 1),
    ("AmnesiacML, MNIST notebook", "threes right after the removal, of 1010", "0", 1, "amnesiac", "threes, removed", 1),
    (
        "AmnesiacML, MNIST notebook",
        "others right after the removal, of 8990",
        "8561",
        1,
        "amnesiac",
        "others, removed",
        1,
    ),
    ("AmnesiacML, MNIST notebook", "others right after repair, of 8990", "8931", 1, "amnesiac", "others, repaired", 1),
]
# Mean over 100 trials of both sides, MNIST 3 against 8: number of the command, published
TRIALS = [
    ("Langevin, epsilon 0.05, k 1", "0.6793"),
    ("Langevin, epsilon 0.1, k 1", "0.8124"),
    ("Langevin, epsilon 1, k 1", "0.9107"),
    ("Langevin, epsilon 0.5, k 2", "0.9103"),
]
DESCENT = {1: "0.5970", 2: "0.7324", 5: "0.8595"}  # descent-to-delete at epsilon 1, by its steps
# Not run: source, statement, published, page
COST = [
    (
        "SelectiveForgetting, Forgetting.ipynb",
        "small CIFAR-5: test error of the retrained network",
        "0.256",
        "2 core-hours",
    ),
    ("NeurIPS 2023 starting kit", "attack on the fine-tuned network", "0.512", "1 core-hour a network"),
    ("UNSIR notebook", "retained accuracy in % after repair", "70.95", "1.2 core-hours"),
    ("airbench94, README.md", "CIFAR-10 accuracy in %", "94.01", "15 to 35 core-minutes a run in bfloat16"),
    ("orientino/lira-pytorch, README.md", "online AUC, 16 models", "0.6548", "an accelerator"),
    (
        LANGEVIN,
        "CIFAR-10, 3 against 8: accuracy, Langevin, epsilon 1, k 1",
        "0.984",
        "ImageNet weights, which are not here",
    ),
]
# What other chapters and benchmarks of this book measure: statements of abstracts that need no secret setting
CITED = [
    (
        "bourtoule2021",
        "a deletion is 3SR/(2R+1) times cheaper: measured over law, 20 shards of 4 slices (range: 1 to 20)",
        "1",
        ("1.01", "0.98", "1.03"),
        "notebooks/03-exact-shards-and-modules",
    ),
    (
        "bourtoule2021",
        "speed-up on the Purchase data (the abstract has no number of requests to put into the law)",
        "4.63",
        ("", "", ""),
        "notebooks/03-exact-shards-and-modules",
    ),
    (
        "brophy2021",
        "a deletion is orders of magnitude, at least two, cheaper than a refit (random forest, 16,000 rows)",
        ">= 100",
        ("527", "438", "612"),
        "book/performance",
    ),
    (
        "choi2024",
        "DLFD avoids correlation collapse: C is at most 0.05, a limit of ours, on photographs of 62 people",
        "<= 0.05",
        ("-0.016", "-0.049", "0.016"),
        "book/benchmarks/11-faces-and-correlation-collapse-lfw",
    ),
]


def _text(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") or "0"


def _line(source: str, statement: str, published: str, found: tuple, page: str) -> Line:
    ours, low, high = map(_text, found)
    return Line(source, statement, published, ours, low, high, verdict(published, low, high), page)


def lines() -> Iterator[Line]:
    """The ledger's lines that follow from `book/benchmarks/papers.json`."""
    for source, statement, published, row, name in COMPUTED:
        (value,) = [found[name] for found in runs(row)]
        page = UNLEARNING if row == "forest-toy" else PRIVACY
        yield _line(source, statement, published, rounding(value, published), page)
    (noise,) = runs("langevin-noise")
    for dataset in ("MNIST", "CIFAR-10"):
        for statement, number, ks in LISTS:
            most = max(noise[f"{dataset}, k {k}, {number}"] for k in ks)
            source = LANGEVIN + ", baseline.py"
            yield _line(source, f"{dataset}, 3 against 8: {statement} (steps beyond)", "<= 0", (most,) * 3, PRIVACY)
    (own,) = runs("langevin-smoothness")
    needed = {
        k: [v for name, v in own.items() if name.startswith(f"of the data, k {k},") and "steps" in name]
        for k in (1, 2, 5)
    }
    most = max(steps - k for k, counts in needed.items() for steps in counts if steps < 100)
    statement = "MNIST: the noises but for the two need k steps at most with the smoothness of the data (steps beyond)"
    yield _line(LANGEVIN + ", baseline.py", statement, "<= 0", (most,) * 3, PRIVACY)
    for source, statement, published, of, row, name, factor in DRAWN:
        page = UNLEARNING if row == "amnesiac" else PRIVACY
        values = factor * np.array([found[name] for found in runs(row)])
        if len(values) >= 3:
            yield _line(
                source, statement, published, prediction(values.mean(), values.std(ddof=1), len(values), of), page
            )
        else:
            ours, why = (_text(values.mean()), "fewer than three runs kept") if len(values) else ("", "not run here")
            yield Line(source, f"{statement} ({why})", published, ours, "", "", "cannot tell", page)
    (trials,) = runs("langevin-mnist")
    for name, published in TRIALS:
        deviation = trials[f"{name}, sd"] * np.sqrt(100 / 99)
        found = prediction(trials[f"{name}, mean"], deviation, 100, 100)
        yield _line(LANGEVIN + ", stored results", f"MNIST 3 against 8, {name}", published, found, PRIVACY)
    (found,) = runs("langevin-smoothness")
    for name in ("as released", "of the data"):
        for k, published in DESCENT.items():
            place = f"{name}, k {k}, epsilon 1, descent"
            statement = f"MNIST 3 against 8, descent-to-delete, epsilon 1, k {k}, smoothness {name}"
            interval = prediction(found[f"{place} mean"], found[f"{place} sd"], 1000, 100)
            yield _line(LANGEVIN + ", stored results", statement, published, interval, PRIVACY)
    for source, statement, published, cost in COST:
        page = PRIVACY if source.startswith(LANGEVIN) else UNLEARNING
        yield Line(source, f"{statement} (not run here: {cost})", published, "", "", "", "cannot tell", page)
    for source, statement, published, (ours, low, high), page in CITED:
        yield Line(source, statement, published, ours, low, high, verdict(published, low, high), page)
