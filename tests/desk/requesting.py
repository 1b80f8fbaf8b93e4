"""People who ask to be deleted, and the command line that they are answered by: what tests of the desk share."""

from pathlib import Path

from unlearnlib import __main__ as program
from unlearnlib.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.01)
WORDS = ["--recipe", "epochs=2", "batch_size=16", "lr=0.01"]
PEOPLE = tuple(f"people/jane-{k}" for k in range(60))


def told(capsys, *words) -> tuple[int, str, str]:
    try:
        status = program.main(list(words))
    except SystemExit as end:
        status = end.code
    found = capsys.readouterr()
    return status, found.out, found.err


def forget(capsys, place: Path, desk: Path, *more: str, policy: str = "finetune"):
    words = ["--model", "mlp", "--weights", str(place / "w.safetensors"), "--data", f"npz:{place / 'train.npz'}"]
    words += ["--held-out", f"npz:{place / 'held.npz'}", *WORDS, "--policy", policy, "-o", str(desk)]
    return told(capsys, "forget", *words, *more)
