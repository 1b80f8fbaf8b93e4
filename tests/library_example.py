"""What an engineer does after `pip install .`: the README's example, then one method of each family and the learners.

Run by itself with the interpreter of a fresh environment, `python tests/library_example.py`; it needs the installed
library and nothing else, and stops where an optional package is present. Its last line says what was done.
"""

import importlib.metadata
import importlib.util
import re
import sys
import warnings
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def example() -> str:
    """The Python block of the README's section on the library."""
    section = README.read_text(encoding="utf-8").partition("## The library")[2]
    return re.search(r"```python\n(.+?)```", section, re.DOTALL)[1]


def absent() -> list[str]:
    """The optional modules, none of which may be here. Raises SystemExit otherwise."""
    from unlearnlib._extras import EXTRAS

    modules = [module for names in EXTRAS.values() for module in names]
    present = [module for module in modules if importlib.util.find_spec(module)]
    if present:
        raise SystemExit(f"this environment has optional packages: {', '.join(present)}")
    return modules


def refused(call, extra: str) -> None:
    """The call must say in one line which extra it needs."""
    try:
        call()
    except ModuleNotFoundError as error:
        assert f"pip install 'does-it-forget[{extra}]'" in str(error) and "\n" not in str(error), error
    else:
        raise AssertionError(f"it did without the extra {extra}")


def main() -> None:
    warnings.simplefilter("error", FutureWarning)  # an old name in the example
    modules = absent()
    import unlearnlib as ul

    assert importlib.metadata.version("does-it-forget") == ul.__version__
    assert Path(ul.__file__).resolve().parent != README.parent / "unlearnlib", "this is the source tree"
    space: dict = {}
    exec(compile(example(), str(README), "exec"), space)
    table = ul.methods()
    split, model = space["split"], space["model"]
    print(f"example: {space['done'].cost}")

    from unlearnlib import audit, data, private, training
    from unlearnlib.exact import Ridge, Sisa

    print(f"the audit of the example has {len(audit.battery(space['done'].model, split))} rows")
    quick = {"epochs": 1}
    for family, row in table.drop_duplicates("family").set_index("family").iterrows():
        options = quick if "epochs=" in row["defaults"] and family != "exact" else {}
        if row["name"] == "datamodel_matching":  # it takes the fit of hundreds of models
            continue
        asked = data.split(space["ds"], forget="class:0", seed=0) if family == "zero-shot" else split
        done = ul.unlearn(row["name"], model, asked, seed=0, **options)
        print(f"{family}: {row['name']}, {done.cost.gradient_evaluations} gradients")
    recipe = training.Recipe(epochs=1)
    sisa = Sisa(lambda seed: ul.models.build("mlp", space["ds"], seed=seed), recipe)
    for learner in (Ridge(), sisa, private.CertifiedNewton()):
        learner.fit(split.train)
        receipt = learner.forget([0, 1, 2])
        print(f"{type(learner).__name__}: {type(receipt).__name__}")
    refused(lambda: data.load("mnist5k"), "data")
    refused(lambda: ul.exact.DareForest, "forest")
    refused(lambda: private.epsilon(1.0, 0.1, 10, 1e-5), "private")
    refused(lambda: ul.studies.run(None), "data")
    refused(lambda: ul.studies.tuning.distributions("finetune"), "tuning")
    print(f"done: {table['family'].nunique()} families, without {', '.join(modules)}")


if __name__ == "__main__":
    sys.exit(main())
