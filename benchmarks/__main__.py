"""Run the benchmarks, print each ratio beside its goal, and write them to the file that the book shows.

    python benchmarks                          all of them
    python benchmarks training lira            some; the rows of the others stay as they are in the file

Each script runs in a process of its own, with one thread and with memory that is kept between steps (both contenders of
a ratio get the same). The file is written after every script, so that an interrupted run loses one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from _machine import ENVIRONMENT, machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "book/benchmarks/performance.json"
_ONE = "import json, os, sys; sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[2])]; import importlib.util as u; \
s = u.spec_from_file_location('script', sys.argv[2]); m = u.module_from_spec(s); sys.modules['script'] = m; \
s.loader.exec_module(m); open(sys.argv[3], 'w').write(json.dumps(m.run(repeats=int(sys.argv[4]))))"


def names() -> list[str]:
    """The scripts of this folder that measure ratios; the others are started by themselves."""
    scripts = [path for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")]
    return sorted(path.stem for path in scripts if "\ndef run(" in path.read_text())


def measured(name: str, repeats: int) -> list[dict]:
    """The rows of one script, run in a fresh process. Raises RuntimeError with the end of its errors."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "rows.json")
        script = Path(__file__).with_name(f"{name}.py")
        call = [sys.executable, "-c", _ONE, str(ROOT), str(script), str(result), str(repeats)]
        done = subprocess.run(call, env={**os.environ, **ENVIRONMENT}, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        return [{"script": name, **row} for row in json.loads(result.read_text())]


def merged(old: Sequence[Mapping], new: Sequence[Mapping]) -> list[dict]:
    """The rows of `old` with those of the scripts in `new` replaced, sorted by script."""
    scripts = {row["script"] for row in new}
    kept = [dict(row) for row in old if row["script"] not in scripts]
    return sorted([*kept, *map(dict, new)], key=lambda row: row["script"])


def write(path: Path, results: Mapping) -> None:
    """Write the results file, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def line(row: Mapping) -> str:
    """One ratio beside its goal."""
    verdict = "reached" if row["ratio"] >= row["goal"] else "missed"
    spread = f"({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['name']:90s} {row['ratio']:8.3g} {row['unit']} {spread}, goal {row['goal']:g}: {verdict}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(names())}; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    unknown = [name for name in args.scripts if name not in names()]
    if unknown or args.repeats < 1:
        parser.error(f"no script {', '.join(unknown)}: there are {', '.join(names())}" if unknown else "repeats >= 1")
    failed = False
    for name in args.scripts or names():
        try:
            rows = measured(name, args.repeats)
        except RuntimeError as error:
            print(f"failed: {error}", file=sys.stderr)
            failed = True
            continue
        print("\n".join(map(line, rows)), flush=True)
        old = json.loads(args.output.read_text())["rows"] if args.output.exists() else []
        write(args.output, {"machine": machine(), "rows": merged(old, rows)})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
