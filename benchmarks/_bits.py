"""Digests of a notebook's numbers in pinned mode, to be compared between processors, real or emulated.

    python benchmarks/_bits.py tests/canary.ipynb
    python benchmarks/_bits.py notebooks/08-dose-control.ipynb epochs=2 "seeds=[0]"
    qemu-x86_64 -cpu EPYC-Rome .venv/bin/python benchmarks/_bits.py ...          the same on an emulated AMD processor

Runs the code cells in this process, with the parameters given, and prints one digest of everything printed and one of
the weights, tensors and arrays that the cells leave behind, bit by bit. Equal lines mean equal bits.
"""

import ast
import contextlib
import hashlib
import io
import json
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
os.environ["MPLBACKEND"] = "agg"


def sources(path: Path, given: dict[str, object]) -> list[str]:
    """The code cells, with `given` set after the cell of parameters."""
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    found = []
    for cell in cells:
        found.append("".join(cell["source"]))
        if "parameters" in cell["metadata"].get("tags", ()):
            found.append("\n".join(f"{name} = {value!r}" for name, value in given.items()))
    return found


def digest(values: dict[str, object]) -> str:
    """SHA-256 of the bits of all modules, tensors, arrays and numbers, by name."""
    import numpy
    import pandas
    import torch

    told = hashlib.sha256()

    def add(name: str, value: object) -> None:
        if isinstance(value, torch.nn.Module):
            for key, tensor in value.state_dict().items():
                add(f"{name}.{key}", tensor)
        elif isinstance(value, torch.Tensor):
            add(name, value.detach().contiguous().numpy())
        elif isinstance(value, (pandas.DataFrame, pandas.Series)):
            told.update(f"{name} {pandas.util.hash_pandas_object(value.map(repr)).tolist()}".encode())
        elif isinstance(value, numpy.ndarray) and value.dtype != object:
            told.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
        elif isinstance(value, (float, int, numpy.number)):
            told.update(f"{name} {value!r}".encode())
        elif isinstance(value, (list, tuple)):
            for i, each in enumerate(value):
                add(f"{name}[{i}]", each)
        elif isinstance(value, dict):
            for key, each in value.items():
                add(f"{name}[{key!r}]", each)

    for name in sorted(values):
        if not name.startswith("_"):
            add(name, values[name])
    return told.hexdigest()


def main() -> None:
    path, *settings = sys.argv[1:]
    given = {name: ast.literal_eval(value) for name, _, value in (s.partition("=") for s in settings)}
    space, printed = {"__name__": "__main__"}, io.StringIO()
    os.chdir(Path(path).resolve().parent)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(printed):
        for source in sources(Path(path).resolve() if Path(path).is_absolute() else ROOT / path, given):
            exec(compile(source, path, "exec"), space)
    print("printed", hashlib.sha256(printed.getvalue().encode()).hexdigest()[:16], len(printed.getvalue()))
    print("values ", digest(space)[:16])


if __name__ == "__main__":
    main()
