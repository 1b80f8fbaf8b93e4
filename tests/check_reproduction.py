"""Compare re-executed notebooks with the committed ones: `python tests/check_reproduction.py`.

On the same kind of processor nothing differs at all. Elsewhere pictures and last digits may; what must not differ is
what the book says: the verdict of every claim, and the text of every cell that is tagged `nbval-check-output`.
Prints what git sees, and fails on a difference of the second kind.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def git(*arguments: str) -> str:
    """The output of a git command in the repository."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def said(notebook: dict) -> list[str]:
    """The lines of a notebook that a re-execution must reproduce: claims with verdicts, and checked text."""
    lines = []
    for cell in notebook["cells"]:
        checked = "nbval-check-output" in cell["metadata"].get("tags", [])
        for output in cell.get("outputs", []):
            claim = output.get("metadata", {}).get("unlearnlib", {}).get("claim")
            text = output.get("text", output.get("data", {}).get("text/plain", ""))
            if claim:
                lines.append(f"[{claim['verdict']}] {claim['text']}")
            elif checked:
                lines += "".join(text).splitlines()
    return lines


def differences(before: dict, after: dict) -> list[str]:
    """Lines that were said before and not after (-), and the reverse (+)."""
    old, new = said(before), said(after)
    return [f"- {line}" for line in old if line not in new] + [f"+ {line}" for line in new if line not in old]


def main() -> int:
    changed = git("diff", "--name-only", "--", "notebooks").split()
    if not changed:
        print("make book reproduced every notebook: git sees no difference")
        return 0
    print(git("diff", "--stat", "--", "notebooks"))
    failed = 0
    for name in changed:
        if not name.endswith(".ipynb") or not (ROOT / name).exists():
            continue
        lines = differences(
            json.loads(git("show", f"HEAD:{name}")), json.loads((ROOT / name).read_text(encoding="utf-8"))
        )
        failed += bool(lines)
        print(f"{name}: {'the book says something else' if lines else 'same claims and checked tables, other bits'}")
        print("\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
