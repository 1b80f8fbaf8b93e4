"""The library installs by itself: into an empty environment, where no extra is, and its example works there."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(name: str) -> dict[str, Version]:
    """Distribution -> pinned version, of a file of requirements."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return {_plain(distribution): Version(version) for distribution, version in found}


APART = ("flower",)  # extras that move packages of the book: in an environment of their own, pinned in pyproject.toml


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    groups = [PROJECT["dependencies"], *(extras[name] for name in extras if name not in APART)]
    found = [Requirement(text) for group in groups for text in group]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def test_the_library_needs_eight_packages():
    names = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert names == {"torch", "torchvision", "numpy", "scipy", "pandas", "scikit-learn", "safetensors", "tqdm"}


def test_every_requirement_is_pinned_inside_its_range():
    pinned = pins("requirements.txt")
    assert len(declared()) > 20
    wrong = [str(r) for r in declared() if _plain(r.name) not in pinned or pinned[_plain(r.name)] not in r.specifier]
    assert wrong == []
    assert [str(r) for r in declared() if not r.specifier] == []


def test_the_lock_is_that_of_the_pins_and_has_a_hash_for_everything():
    locked, text = pins("requirements.lock"), (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert {name: locked.get(name) for name in pins("requirements.txt")} == pins("requirements.txt")
    entries = re.split(r"\n(?=[a-zA-Z0-9])", text.strip())
    assert len(entries) >= len(locked) > 150
    assert [e.splitlines()[0] for e in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", e)] == []
    assert "://" not in text


def test_extras_are_those_that_errors_name():
    from unlearnlib._extras import DISTRIBUTION, EXTRAS

    assert DISTRIBUTION == PROJECT["name"] and set(EXTRAS) | {"all"} == set(PROJECT["optional-dependencies"])
    known = importlib.metadata.packages_distributions()
    for extra, modules in EXTRAS.items():
        group = {_plain(Requirement(text).name) for text in PROJECT["optional-dependencies"][extra]}
        for module in modules:
            brings = {_plain(name) for name in known.get(module, [module] if extra in APART else [])}
            assert brings, f"{module} is not installed here"
            others = () if extra in APART else group - {PROJECT["name"]}
            through = {_plain(Requirement(r).name) for name in others for r in _requires(name)}
            assert brings & (group | through), f"{module} comes with {brings}, not with {extra}"


def _requires(name: str) -> list[str]:
    return [text for text in importlib.metadata.requires(name) or () if "extra ==" not in text]


def test_no_optional_package_is_imported_by_name():
    """But through `optional`, which says what is missing; the executor starts where papermill is known to be."""
    from unlearnlib._extras import EXTRAS

    names = "|".join(module for modules in EXTRAS.values() for module in modules)
    found = {
        str(path.relative_to(ROOT)): hits
        for path in (ROOT / "unlearnlib").rglob("*.py")
        if (hits := re.findall(rf"^\s*(?:from|import) ({names})\b", path.read_text(encoding="utf-8"), re.MULTILINE))
    }
    assert found == {
        "unlearnlib/publishing/_execute.py": ["papermill", "papermill"],
        "unlearnlib/publishing/bookkeeping.py": ["IPython", "IPython"],  # where a shell of it is running
    }


def test_every_optional_package_is_known():
    from unlearnlib._extras import EXTRAS

    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "unlearnlib").rglob("*.py")]
    asked = {module for text in texts for module in re.findall(r"\boptional\(\"(\w+)", text)}
    assert asked | {"IPython"} == {module for modules in EXTRAS.values() for module in modules}


def test_what_is_missing_is_told_in_one_line(monkeypatch):
    from unlearnlib._extras import optional

    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ModuleNotFoundError, match=r"^numba is not installed: pip install 'does-it-forget\[forest\]'$"):
        optional("numba")
    with pytest.raises(ModuleNotFoundError, match="No module named 'pyarrow.nothing'"):
        optional("pyarrow.nothing")  # the package is there: something else is wrong
    assert optional("yaml") is sys.modules["yaml"]


def needed(names: list[str]) -> set[str]:
    """These distributions and all that they need on this machine, extras left out."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            asked = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
            there = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
            # torch asks for parts of its toolkit by extras, as cuda-toolkit[cublas]
            for r in there:
                names += [_plain(r.name), *_through_extras(r)]
    return found


def _through_extras(requirement: Requirement) -> list[str]:
    asked = map(Requirement, importlib.metadata.requires(requirement.name) or ())
    return [
        _plain(r.name)
        for r in asked
        if r.marker and any(r.marker.evaluate({"extra": extra}) for extra in requirement.extras)
    ]


def link(distributions: set[str], folder: Path) -> None:
    """Links in `folder` to the files of the distributions: an environment that holds these and no others."""
    folder.mkdir()
    for name in distributions:
        found = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in found.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(found.locate_file(top))


@pytest.mark.slow
def test_the_library_works_without_any_extra(tmp_path):
    """`pip install .` into an empty environment that sees the required packages of this one, and nothing else."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "unlearnlib", source / "unlearnlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    link(needed([Requirement(text).name for text in PROJECT["dependencies"]]), tmp_path / "packages")
    place = subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    Path(place, "required.pth").write_text(f"{tmp_path / 'packages'}\n")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"UNLEARN_CACHE": "off"}
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", source]
    done = subprocess.run(install, env=env, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode and re.search(r"setuptools|connection|retries", done.stderr, re.IGNORECASE):
        pytest.skip(f"no package index for the build: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    run = [python, "-P", ROOT / "tests/library_example.py"]
    done = subprocess.run(run, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "done: " in done.stdout, done.stdout + done.stderr[-2000:]
    listed = subprocess.check_output([tmp_path / "env/bin/unlearn", "methods", "--format", "csv"], env=env, text=True)
    assert listed.count("\n") > 30
    refused = subprocess.run([tmp_path / "env/bin/unlearn", "run", "x.ipynb", "-o", "y"], env=env, capture_output=True)
    assert refused.returncode == 2 and b"pip install 'does-it-forget[book]'" in refused.stderr
