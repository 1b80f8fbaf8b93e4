"""Studies: grids of settings, methods and seeds, audited, as one tidy table.

    grid = Grid([Setting("mnist5k")], ["finetune", "scrub"], seeds=range(3))
    rows = run(grid, folder="runs/first", workers=2)
    table = summary(rows)

For every setting and seed the candidates are the original, the retrained model ("retrain"), one more retraining from
another seed ("retrain, other seed": the null) and each method. A candidate is audited against the retrained models of
all seeds and paired with that of its own seed; the retrained model itself, against those of the other seeds.

The rows are the same, wall seconds apart, for any number of workers and however often the run was interrupted: a cell
depends on its own arguments, its rows are stored the moment they are there, and their order is that of the grid.
"""

import contextlib
import functools
import importlib
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from unlearnlib._extras import optional
from unlearnlib.audit.batteries.battery import battery, logits_of
from unlearnlib.audit.batteries.rungs import Logits
from unlearnlib.audit.verdicts import tidy
from unlearnlib.data.tensors import check, check_kind
from unlearnlib.methods.records import Cost
from unlearnlib.store import addresses, cache
from unlearnlib.studies import settings
from unlearnlib.studies.grids import Candidate, Cell, Grid, Model
from unlearnlib.studies.settings import NULL, RETRAIN
from unlearnlib.training.cluster import execute
from unlearnlib.training.jobs import Failed, Job, one_thread, stoppable
from unlearnlib.training.progress import progress_bar
from unlearnlib.training.remote import agreed

_TEXT = (
    *tidy.WHAT,
    *("audit", "game", "subset", "statistic", "ci_method", "direction", "target"),
    *("variance_mode", "threshold_source", "reason", "run_id"),
)
NETWORKS = {"weights", "probe", "relearn"}  # rungs of the battery that look into the networks
_log = logging.getLogger(__name__)
_SAY_EVERY = 30.0  # seconds between two lines of progress in a log


def run(
    grid: Grid,
    *,
    folder: str | Path | None = None,
    workers: int = 0,
    cluster: str | None = None,
    resources: Mapping[str, float] | None = None,
    limit: float | None = None,
    patience: float = 300.0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train, unlearn and audit a grid; tidy rows in the schema of `audit.tidy`.

    folder      where the rows of each cell are kept, and all of them in the end as results.parquet. Without it they
                are kept in the cache. A run that was killed goes on from there
    workers     processes of one thread each; 0 runs everything in this one
    cluster     address (`tcp://...`) or scheduler file of a dask cluster to run on instead
    resources   what a job takes of a dask worker's resources, as {"GPU": 1}
    limit       seconds that one job may take on a worker; what takes longer is ended and has failed
    patience    seconds to wait for a cluster without any worker before what is left has failed
    progress    a bar on a terminal; elsewhere a line in the log (level INFO) every half minute

    A cell that fails gives one row with `valid_flag` false and the reason, and the rest goes on. A method that
    diverges is a result and is kept; any other failure is tried again by the next run. Rows that the disk has no room
    for are returned all the same, after one warning.
    """
    optional("pyarrow")  # the rows are kept as Parquet
    check_kind("what is run", grid, Grid, "see studies.Grid")
    check(folder is None or str(folder) != "", "folder is empty: name one, or leave it out")
    with ExitStack() as context:
        context.enter_context(stoppable())
        context.enter_context(one_thread())
        context.enter_context(cache.warning_once())
        if cluster is not None:
            context.enter_context(addresses.assuming(_agreed(cluster, patience)))
        if cache.store() is None:  # switched off: what cells share is kept for as long as the run lasts
            shared = context.enter_context(tempfile.TemporaryDirectory(prefix="unlearn-"))
            context.enter_context(cache.using(Path(shared)))
        kept = cache.store() if folder is None else cache.Store(folder)
        todo, address_of = grid.cells(), functools.cache(Model.address)
        if workers or cluster is not None:
            _check_portable(todo)
        places = {cell.name: cell.address(address_of) for cell in todo}
        found = {name: None if place is None else kept.read(place) for name, place in places.items()}
        missing = {cell.name: cell for cell in todo if found[cell.name] is None}
        jobs = _jobs(missing.values(), places, address_of, None if cluster is not None else cache.folder())
        ended = execute(jobs, workers=workers, cluster=cluster, resources=resources, limit=limit, patience=patience)
        for name, result in _with_progress(ended, len(jobs), progress):
            if name in missing:
                found[name] = _received(missing[name], places[name], result, kept)
        table = pd.concat([found[cell.name].value for cell in todo], ignore_index=True)
        if folder is not None:
            with kept.may_fail():
                cache.write_table(Path(folder) / "results.parquet", table)
        return table


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """`audit.tidy.summarise` with the null of these studies: means over training seeds, intervals, gaps."""
    return tidy.summarise(rows, null_method=NULL)


@dataclass(frozen=True)
class _Order:
    """What a job is told: the model to make or the cell to audit, its address, and where the shared store is."""

    work: Model | Cell
    address: str | None
    home: str  # the module that registers the method
    store: Path | None  # None on a cluster: each worker has its own, and what it made is sent along


def _jobs(missing: Iterable[Cell], places: Mapping, address_of, store: Path | None) -> list[Job]:
    """Models before the cells that need them; a model without an address is made inside its cell."""
    jobs: dict[str, Job] = {}
    for cell in missing:
        models = [model for model in cell.needs if address_of(model) is not None]
        for model in models:
            needs = () if model.is_baseline else (model.start.name,)
            for one in (model,) if model.is_baseline else (model.start, model):
                order = _Order(one, address_of(one), one.candidate.home, store)
                jobs.setdefault(one.name, Job(one.name, _make, order, () if one is not model else needs))
        order = _Order(cell, places[cell.name], cell.model.candidate.home, store)
        jobs[cell.name] = Job(cell.name, _audited, order, tuple(model.name for model in models), kept=True)
    return list(jobs.values())


def _make(order: _Order, needed: Mapping[str, object]):
    """Make a model so that the store has it; on a cluster return what the store has, for jobs on other machines."""
    failed = next((result for result in needed.values() if isinstance(result, Failed)), None)
    if failed is not None:
        return failed
    with _prepared(order, needed):
        order.work.made()
        return None if order.store is not None else (order.address, cache.store().packed(order.address))


def _audited(order: _Order, needed: Mapping[str, object]):
    """The rows of a cell. Oracles that diverged are left out; anything else that is missing is the cell's end."""
    cell = order.work
    failed = {m: needed[m.name] for m in cell.needs if isinstance(needed.get(m.name), Failed)}
    for model, why in failed.items():
        if not why.lasting or model in (cell.model, cell.model.start):
            who = "" if model == cell.model else f"{model.candidate.label}, seed {model.seed}: "
            return Failed(f"{who}{why.reason}", why.lasting)
    with _prepared(order, needed):
        seen = Model.made if NETWORKS & set(cell.rungs) else _answered
        model, cost = seen(cell.model)
        oracles = [oracle for oracle in cell.oracles if oracle not in failed]
        made = [seen(oracle) for oracle in oracles]
        siblings = [sibling for sibling in cell.siblings if sibling not in failed]
        pair = next((i for i, oracle in enumerate(oracles) if oracle.seed == cell.model.seed), None)
        itself = cell.model.candidate == Candidate(RETRAIN, RETRAIN)
        whole = cost if itself else None if pair is None else made[pair][1]
        return battery(
            model,
            cell.model.setting.split(),
            oracles=[network for network, _ in made],
            originals=[seen(cell.model.start)[0]],
            unlearned=[seen(sibling)[0] for sibling in siblings],
            parents=[one.seed for one in (cell.model, *siblings)],  # each seed trains an original of its own
            pair=pair,
            cost=cost,
            retrain_cost=whole,
            relearning=cell.relearning,
            rungs=cell.rungs,
            tags=cell.tags(order.address),
            seed=cell.model.seed,
        )


def _answered(model: Model) -> tuple[Logits, Cost]:
    """The logits of a model, which all cells of a setting and seed share, and what it cost."""
    address = model.address()
    return _answers(model, address) if address is not None else _answers.__wrapped__(model, address)


@functools.lru_cache(maxsize=32)
def _answers(model: Model, address: str | None) -> tuple[Logits, Cost]:
    (network, cost), split = model.made(), model.setting.split()
    return Logits(*(logits_of(network, part) for part in (split.forget, split.retain, split.test))), cost


@contextlib.contextmanager
def _prepared(order: _Order, needed: Mapping[str, object]) -> Iterator[None]:
    """The store of the run, filled with what other machines made; and the certainty that this one fits."""
    if not order.home.startswith("unlearnlib."):
        importlib.import_module(order.home)
    with ExitStack() as context:
        context.enter_context(cache.using(order.store))
        if order.address is not None and order.work.address() != order.address:
            raise ValueError("this worker has other code, data or numerics than the process that sent the job")
        if order.store is None:
            if cache.store() is None:
                context.enter_context(cache.using(_own_folder()))
            sent = [result for result in needed.values() if result is not None and not isinstance(result, Failed)]
            for address, packed in sent:
                if packed is not None:
                    cache.store().adopt(address, packed)
        yield


@functools.cache
def _own_folder() -> Path:
    """A store for a worker whose cache is switched off; it goes with the worker."""
    folder = tempfile.TemporaryDirectory(prefix="unlearn-")
    _folders.append(folder)
    return Path(folder.name)


_folders: list[tempfile.TemporaryDirectory] = []


def _received(cell: Cell, address: str | None, result, kept: cache.Store) -> cache.Entry:
    """The rows of a cell that has ended, stored where they are a result."""
    rows = _failed(cell, address, result) if isinstance(result, Failed) else result
    rows = rows.astype(dict.fromkeys(_TEXT, "str"))  # or a column without a value would be one of numbers
    tags = cell.tags(address)
    entry = cache.Entry(rows, {"what": "rows", **{name: tags[name] for name in ("dataset", "arch", "method")}})
    lasting = not isinstance(result, Failed) or result.lasting
    return kept.keep(address, entry) if address is not None and lasting else cache.through_storage(entry)


def _failed(cell: Cell, address: str | None, why: Failed) -> pd.DataFrame:
    estimate = tidy.Estimate("run", "util", "all", "completed", 0.0, target="max", valid=False, reason=why.reason)
    return tidy.table([tidy.row(estimate, tags={**cell.tags(address), "seed_eval": cell.model.seed})])


def _with_progress(ended: Iterator, total: int, wanted: bool) -> Iterator:
    """The same items; a bar on a terminal, a line in the log now and then elsewhere."""
    started = said = time.monotonic()
    with contextlib.closing(ended), progress_bar(total, wanted, unit="job") as bar:
        for done, item in enumerate(ended, 1):
            yield item
            bar.update()
            now = time.monotonic()
            if wanted and bar.disable and now - said > _SAY_EVERY:
                left = (now - started) / done * (total - done)
                _log.info("%d of %d jobs done, about %.0f minutes left", done, total, left / 60)
                said = now


def _check_portable(todo: Sequence[Cell]) -> None:
    for cell in todo:
        if cell.model.candidate.home == "__main__":
            method = cell.model.candidate.method
            raise ValueError(f"{method} is defined in a notebook or script: put it in a module, or run with workers=0")


def _agreed(address: str, patience: float) -> Mapping[str, object]:
    """The numerics of a cluster whose workers have the same code and versions as this process."""
    theirs, ours = agreed(address, _signature, patience), _signature()
    for what in ("code", "versions"):
        names = sorted(n for n in {**ours[what], **theirs[what]} if ours[what].get(n) != theirs[what].get(n))
        if names:
            raise ValueError(f"the workers have other {what} than this process: {', '.join(names[:5])}")
    return theirs["numerics"]


def _signature() -> dict[str, object]:
    code = addresses.code(
        "unlearnlib.studies.runs", "unlearnlib.methods.registry", "unlearnlib.audit.batteries.battery"
    )
    return {"code": code, "versions": addresses.versions(), "numerics": addresses.numerics(settings.device())}
