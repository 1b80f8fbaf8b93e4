"""Results of large runs, as others can load them: read from `book/benchmarks`, checked, and bound into one archive.

A results file is a Parquet file, or a CSV file with columns `statistic` and `seed_train`, of rows in the schema of
`audit.verdicts.tidy`; of one name in both kinds the Parquet file is read. `NAME-examples.parquet` holds what single
examples give away: a line for each method and example. `commands.json` says how each file was made.

The archive is `results.parquet` and `results.csv` (all rows, with the file that each is from), the same for examples,
and `datapackage.json`, which describes every column: a Frictionless tabular data package.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from unlearnlib import __version__
from unlearnlib._extras import optional
from unlearnlib.audit.verdicts.tidy import COLUMNS
from unlearnlib.store import files
from unlearnlib.studies.ranking import NEEDED

FOLDER = Path("book/benchmarks")
EXAMPLES = "-examples"
PLACED = ("dataset", "arch", "forget_set_id")  # what a row is of; `ranking` needs the rest
EXAMPLE = (*PLACED, "method", "example")
# column -> (type, unit or "", meaning): the tidy schema, then what a file may have beside it
SCHEMA: dict[str, tuple[str, str, str]] = {
    "file": ("string", "", "the file below book/benchmarks that the row is from"),
    "study": ("string", "", "name that the run gave itself"),
    "rung": ("string", "", "part of a larger study, where there are several"),
    "dataset": ("string", "", "training data"),
    "arch": ("string", "", "network"),
    "method": ("string", "", "candidate: a method's label, original, retrain, or the null: retrain, other seed"),
    "config_hash": ("string", "", "digest of setting and hyper-parameters"),
    "forget_set_id": ("string", "", "forget request and the seed of its draw"),
    "forget_kind": ("string", "", "kind of request: random, class, identity, ..."),
    "mem_stratum": ("string", "", "stratum of memorisation, where the forget set was chosen by it"),
    "audit": ("string", "", "what was measured: the audit's name"),
    "game": ("string", "", "A: against retraining; B: forgotten against never seen; util: utility; cost"),
    "subset": ("string", "", "examples that were read: forget, retain, test, all"),
    "statistic": ("string", "", "which number of the audit"),
    "value": ("number", "as the statistic", "the estimate"),
    "ci_lo": ("number", "as the statistic", "lower end of its 95 % interval, where the audit has one of its own"),
    "ci_hi": ("number", "as the statistic", "upper end"),
    "ci_method": ("string", "", "how that interval was made"),
    "n_models": ("number", "models", "models behind the estimate"),
    "n_examples": ("number", "examples", "examples behind the estimate"),
    "n_pos": ("number", "examples", "members among them"),
    "n_neg": ("number", "examples", "non-members among them"),
    "null_value": ("number", "as the statistic", "mean of the same estimate over retrained models"),
    "null_lo": ("number", "as the statistic", "lower end of the 95 % prediction interval of one more retraining"),
    "null_hi": ("number", "as the statistic", "upper end"),
    "null_sd": ("number", "as the statistic", "standard deviation over retrained models"),
    "retrain_value": ("number", "as the statistic", "estimate of the retrained model, or models, it is compared with"),
    "gap": ("number", "as the statistic", "value - retrain_value"),
    "gap_lo": ("number", "as the statistic", "lower end of the gap's interval, where the audit has one"),
    "gap_hi": ("number", "as the statistic", "upper end"),
    "z_null": ("number", "standard deviations", "(value - null_value) / null_sd"),
    "direction": ("string", "", "lower, higher or target: what is good"),
    "target": ("string", "", "what a perfect method has: retrain, 0.5, 0 or max"),
    "delta": ("number", "", "delta of a statement on privacy"),
    "alpha": ("number", "", "false-positive rate at which a true-positive rate is read"),
    "shadow_k": ("number", "models", "shadow models a side"),
    "variance_mode": ("string", "", "how U-LiRA estimated variances"),
    "threshold_source": ("string", "", "where a threshold was chosen"),
    "tuned_trials": ("number", "trials", "trials that chose the hyper-parameters; empty: not tuned"),
    "cost_frac_retrain": ("number", "retrainings", "work over that of retraining (forward 1, both ways 3)"),
    "valid_flag": ("boolean", "", "whether the audit could decide anything"),
    "reason": ("string", "", "why not"),
    "run_id": ("string", "", "digest of code, data, numerics and arguments"),
    "seed_train": ("number", "", "training seed, pool, or model of a pool: what intervals are over"),
    "seed_eval": ("number", "", "seed of the evaluation"),
    "budget": ("number", "retrainings", "budget that the method was given, where there is one"),
    "seconds": ("number", "s", "seconds that the method took"),
}
OF_EXAMPLES = {
    **{name: SCHEMA[name] for name in ("file", *PLACED, "method", "budget")},
    "example": ("integer", "", "position in the training set"),
    "label": ("integer", "", "its class"),
    "shift": ("number", "standard deviations", "(mean margin where forgotten - where never seen) / sd; 0 is perfect"),
    "klom": ("number", "nats", "KLoM of the example: its margins where forgotten, against retrained models without it"),
}


def places(folder: Path = FOLDER) -> list[Path]:
    """The results files of a folder, without those of single examples."""
    found = {path.stem: path for path in sorted(folder.glob("*.csv")) if _claims_to_be_tidy(path)}
    found |= {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    return [path for stem, path in sorted(found.items()) if not stem.endswith(EXAMPLES)]


def _claims_to_be_tidy(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        return {"statistic", "seed_train"} <= set(file.readline().strip().split(","))


def rows_of(path: Path) -> pd.DataFrame:
    """The rows of one results file, with all columns of the schema, missing ones empty.

    Raises ValueError, in one line, for a file that is damaged or empty, for missing columns and for numbers that are
    none.
    """
    rows = _checked(path, (*NEEDED, *PLACED), SCHEMA)
    valid = rows["valid_flag"]
    if not set(valid.dropna().unique()) <= {True, False} or valid.isna().any():
        raise ValueError(f"{path}: valid_flag must be true or false in every row")
    if not len(rows) or rows["seed_train"].isna().any():
        raise ValueError(f"{path}: {'every row needs its seed_train' if len(rows) else 'there is no row'}")
    extra = [name for name in SCHEMA if name in rows and name not in COLUMNS and name != "file"]
    return rows.reindex(columns=["file", *COLUMNS, *extra]).assign(file=path.name)


def examples_of(path: Path) -> pd.DataFrame:
    """The lines of one file of examples. Raises ValueError as `rows_of`, and where no statistic is a number."""
    lines = _checked(path, EXAMPLE, OF_EXAMPLES)
    named = [*EXAMPLE, "label", "budget"]
    numbers = [c for c in lines if c not in named and pd.api.types.is_numeric_dtype(lines[c])]
    if not numbers or not len(lines):
        raise ValueError(f"{path}: no column of numbers says what an example gives away: add shift or klom")
    if lines.duplicated([name for name in (*EXAMPLE, "budget") if name in lines]).any():
        raise ValueError(f"{path}: an example stands twice under one method: average it first")
    kept = [name for name in OF_EXAMPLES if name in lines and name != "file"]
    return lines[[*kept, *(c for c in numbers if c not in kept)]].assign(file=path.name)


def _checked(path: Path, needed: Sequence[str], schema: Mapping[str, tuple]) -> pd.DataFrame:
    optional("pyarrow")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except Exception as error:  # pyarrow and pandas raise kinds of their own for damaged files
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())[:120]}") from None
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: write the rows of studies.run or studies.pooled")
    for name, (kind, *_) in schema.items():
        if name in table and kind in ("number", "integer") and not pd.api.types.is_numeric_dtype(table[name]):
            if table[name].notna().any():
                raise ValueError(f"{path}: {name} must be numbers, not {table[name].dropna().iloc[0]!r:.40}")
            table[name] = table[name].astype(float)
    return table


def results(folder: Path = FOLDER) -> pd.DataFrame:
    """All rows of a folder; empty where there is no results file."""
    found = [rows_of(path) for path in places(folder)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["file", *COLUMNS])


def examples(folder: Path = FOLDER) -> pd.DataFrame:
    """All lines of single examples; empty where there are none."""
    found = [examples_of(path) for path in sorted(folder.glob(f"*{EXAMPLES}.parquet"))]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["file", *EXAMPLE])


def commands(folder: Path = FOLDER) -> dict[str, str]:
    """Name of a results file, without its ending -> the command that makes it."""
    path = folder / "commands.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(target: Path, tables: Mapping[str, pd.DataFrame], made_by: Mapping[str, str]) -> list[Path]:
    """Write the archive to `target`; a file whose content has not changed is not touched. Returns the paths.

    `tables` by name: those of `results` and `examples`. `made_by`: the command of each file, by its name.
    """
    made: dict[str, bytes] = {}
    for name, table in tables.items():
        made[f"{name}.csv"] = table.to_csv(index=False, float_format="%.7g", lineterminator="\n").encode()
        buffer = io.BytesIO()
        table.to_parquet(buffer, engine="pyarrow", index=False)
        made[f"{name}.parquet"] = buffer.getvalue()
    described = package(tables, {name: made[f"{name}.csv"] for name in tables}, made_by)
    made["datapackage.json"] = (json.dumps(described, indent=1) + "\n").encode()
    target.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        if not (target / name).exists() or (target / name).read_bytes() != content:
            files.write(target / name, content)
    return [target / name for name in made]


def package(tables: Mapping[str, pd.DataFrame], written: Mapping[str, bytes], made_by: Mapping[str, str]) -> dict:
    """The description of the archive: licence, how to cite, and each column with its type, unit and meaning."""
    return {
        "profile": "tabular-data-package",
        "name": "does-it-forget-results",
        "title": "Does it forget? Results of all large runs",
        "version": __version__,
        "description": "Audits of machine unlearning: one row an estimate, and one line an example and method.",
        "licenses": [{"name": "CC-BY-4.0", "title": "Creative Commons Attribution 4.0"}],
        "contributors": [{"title": "The unlearnlib authors", "role": "author"}],
        "citation": f"The unlearnlib authors: Does it forget? Machine unlearning with every sentence re-run."
        f" Version {__version__}. Name the file (column `file`) that you used.",
        "keywords": ["machine unlearning", "membership inference", "benchmark"],
        "sources": [{"title": name, "command": command} for name, command in sorted(made_by.items())],
        "resources": [
            {
                "name": name,
                "path": f"{name}.csv",
                "format": "csv",
                "encoding": "utf-8",
                "bytes": len(written[name]),
                "hash": f"sha256:{hashlib.sha256(written[name]).hexdigest()}",
                "rows": len(table),
                "alternative": f"{name}.parquet",
                "schema": {"fields": [_field(c, SCHEMA | OF_EXAMPLES) for c in table], "missingValues": [""]},
            }
            for name, table in tables.items()
        ],
    }


def _field(name: str, schema: Mapping[str, tuple]) -> dict[str, str]:
    kind, unit, meaning = schema.get(name, ("number", "", "what an example gives away, as its run describes it"))
    return {"name": name, "type": kind, "description": meaning} | ({"unit": unit} if unit else {})
