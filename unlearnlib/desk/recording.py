"""What training leaves behind for later requests, recorded by a few lines in any PyTorch loop.

    recorder = Recorder("record", ids, every=1000, updates=["id7", "id9"], budget=2 * 10**9)
    recorder.begin(model, optimiser)
    for index, pixels, labels in loader:          # index: positions [B] of the examples in `ids`
        ...
        optimiser.step()
        recorder.step(model, index, optimiser)
    recorder.end(model, examples)

kept            for
the order       which steps an example had a part in: the batch [B] of each step, 8 bytes an example
checkpoints     rewinding: `Recorded.rest(ids)` gives the newest one that none of the ids has touched, and the batches
                after it without them. Where data come in slices, one a slice is what SISA keeps
updates         amnesiac unlearning: the change of the weights in each step with a chosen id, while the budget lasts
importances     SSD: the diagonal of the Fisher matrix over the training set
checksums       of the examples, of the code and of the last weights

All files are safetensors or JSON and appear whole. Nothing is drawn: training goes on bit for bit as without it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from unlearnlib.approximate.amnesiac import Record
from unlearnlib.approximate.fisher import fisher_diagonal
from unlearnlib.approximate.gradients import copies, flat
from unlearnlib.data.doors import positions
from unlearnlib.data.examples import Split
from unlearnlib.store import files
from unlearnlib.store.digests import content_digest, versions

_FLUSH = 4096  # steps whose order is written at once
SCHEMA = "unlearnlib record 1"


class Recorder:
    """Records one training into `folder`, which must not hold another one.

    ids        what the examples are called, by position; texts that tell them apart
    every      steps between checkpoints; 0 for the first and the last alone
    updates    ids whose updates are kept for amnesiac unlearning
    budget     bytes that updates may take on disk. Ids with a step after it is spent cannot be forgotten that way
    """

    def __init__(
        self, folder: str | Path, ids: Sequence[str], *, every: int = 0, updates: Iterable[str] = (), budget: int = 0
    ):
        self.folder, self.ids, self.every, self.budget = Path(folder), [str(name) for name in ids], every, budget
        places = {name: i for i, name in enumerate(self.ids)}
        if len(places) != len(self.ids) or not self.ids:
            raise ValueError("a recorder needs ids that tell the examples apart, one for each")
        unknown = [name for name in updates if str(name) not in places]
        if unknown:
            raise ValueError(f"updates names {unknown[0]!r:.60}, which is none of the ids")
        if (self.folder / "record.json").exists():
            raise ValueError(f"{folder} holds the record of another training: choose a new folder")
        self._wanted = torch.zeros(len(self.ids), dtype=torch.bool)
        self._wanted[[places[str(name)] for name in updates]] = True
        self._whole = self._wanted.clone()  # whose updates are all there
        self._keeps = bool(self._wanted.any())
        self._pending: list[Tensor] = []
        self._steps, self._written, self._spent = 0, 0, 0
        self._order: list[Tensor] = []
        self._before: dict[str, Tensor] | None = None

    def begin(self, model: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> None:
        """Call before the first step."""
        for name in ("order", "checkpoints", "updates"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._tell("training")
        self._checkpoint(model, optimiser)
        self._before = copies(model) if self._keeps else None

    def seen(self, index: Tensor | Sequence[int]) -> None:
        """Note a batch that goes into the coming step; more than one where gradients are accumulated."""
        self._pending.append(positions(torch.as_tensor(index).detach().cpu(), len(self.ids), distinct=False))

    @torch.no_grad()
    def step(
        self, model: nn.Module, index: Tensor | Sequence[int] = (), optimiser: torch.optim.Optimizer | None = None
    ) -> None:
        """Call after `optimiser.step()`, with the positions [B] of the batch unless `seen` has been told."""
        if len(index):
            self.seen(index)
        if not self._pending:
            raise ValueError("step needs the positions of its batch: give index, or call seen(index) before")
        batch = torch.cat(self._pending)
        self._pending = []
        if self._keeps:
            self._update(model, batch)
        self._order.append(batch)
        self._steps += 1
        if len(self._order) == _FLUSH:
            self._flush()
        if self.every and self._steps % self.every == 0:
            self._checkpoint(model, optimiser)

    def end(self, model: nn.Module, examples=None, optimiser: torch.optim.Optimizer | None = None) -> None:
        """Call after the last step. With the `examples`, their checksum and the importances are kept as well."""
        self._checkpoint(model, optimiser)
        checksum = ""
        if examples is not None:
            if len(examples) != len(self.ids):
                raise ValueError(f"there are {len(self.ids)} ids and {len(examples)} examples: give those trained on")
            checksum = examples.checksum()
            importance = {"importance": fisher_diagonal(model, examples, "empirical").cpu()}
            _save(self.folder / "importance.safetensors", importance)
        self._tell("complete", checksum)

    def _update(self, model: nn.Module, batch: Tensor) -> None:
        touched = self._wanted[batch]
        now = copies(model)
        if touched.any():
            change = flat(now[name] - before for name, before in self._before.items()).cpu()
            size = change.numel() * change.element_size()
            if self._spent + size <= self.budget:
                self._spent += size
                _save(self.folder / "updates" / f"{self._steps:08d}.safetensors", {"update": change})
            else:
                self._whole[batch] = False
        self._before = now

    def _checkpoint(self, model: nn.Module, optimiser) -> None:
        self._flush()
        held = {f"model.{name}": value.detach().cpu().clone() for name, value in model.state_dict().items()}
        if optimiser is not None:
            for i, state in optimiser.state_dict()["state"].items():
                held |= {f"optimiser.{i}.{k}": v.detach().cpu().clone() for k, v in state.items() if torch.is_tensor(v)}
        _save(self.folder / "checkpoints" / f"{self._steps:08d}.safetensors", held)

    def _flush(self) -> None:
        if self._order:
            held = {"index": torch.cat(self._order), "sizes": torch.tensor([len(b) for b in self._order])}
            _save(self.folder / "order" / f"{self._written:08d}.safetensors", held)
            self._written, self._order = self._steps, []

    def _tell(self, state: str, checksum: str = "") -> None:
        told = {
            "schema": SCHEMA,
            "state": state,
            "ids": self.ids,
            "steps": self._steps,
            "bytes of updates": self._spent,
            "updates kept of": [self.ids[i] for i in self._whole.nonzero().flatten().tolist()],
            "checksum": checksum,
            "versions": versions(),
        }
        told["digest"] = content_digest(told)
        files.write(self.folder / "record.json", (json.dumps(told) + "\n").encode())


def _save(path: Path, held: dict[str, Tensor]) -> None:
    files.write(path, safetensors.torch.save({name: value.contiguous() for name, value in held.items()}))


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class Recorded:
    """A training that was recorded to its end."""

    folder: Path
    ids: tuple[str, ...]
    steps: int
    kept: tuple[str, ...]  # ids whose updates are all there
    checksum: str

    @cached_property
    def order(self) -> tuple[Tensor, ...]:
        """The positions [B] of each step, first to last."""
        found: list[Tensor] = []
        for path in sorted((self.folder / "order").glob("*.safetensors")):
            held = _load(path)
            found += held["index"].split(held["sizes"].tolist())
        if len(found) != self.steps:
            raise ValueError(f"{self.folder} has the order of {len(found)} steps and not of {self.steps}")
        return tuple(found)

    def importance(self) -> Tensor:
        """The diagonal of the empirical Fisher matrix over the training set [P]; ValueError where it was not kept."""
        return _load(self.folder / "importance.safetensors")["importance"]

    def positions(self, ids: Iterable[str]) -> Tensor:
        places = {name: i for i, name in enumerate(self.ids)}
        unknown = [name for name in ids if name not in places]
        if unknown:
            raise ValueError(f"the record does not know the id {unknown[0]!r:.60}")
        return torch.tensor([places[name] for name in ids], dtype=torch.int64)

    def untouched(self, ids: Iterable[str]) -> tuple[int, Path]:
        """The newest checkpoint before any step with one of the ids: steps done, and its file."""
        where = self.positions(ids)
        first = next((t for t, batch in enumerate(self.order) if torch.isin(batch, where).any()), self.steps)
        found = sorted(self.folder.glob("checkpoints/*.safetensors"))
        path = [path for path in found if int(path.stem) <= first][-1]
        return int(path.stem), path

    def rest(self, ids: Iterable[str]) -> tuple[Path, Iterator[Tensor]]:
        """Where to rewind to, and the batches from there on without the ids (a batch may come out empty)."""
        ids = list(ids)
        (done, path), where = self.untouched(ids), self.positions(ids)
        return path, (batch[~torch.isin(batch, where)] for batch in self.order[done:])

    def updates_for(self, ids: Sequence[str], split: Split) -> Record:
        """The updates that amnesiac unlearning takes back, for a split of the examples called `ids`.

        Steps with an example that is no longer in the split were taken back when it was deleted, and are left out.
        """
        if tuple(ids) != self.ids:
            raise ValueError("the record is of other examples than the data: its ids differ")
        place = torch.full((len(ids),), -1)
        place[split.index] = torch.arange(len(split.index))
        stored = {int(path.stem): path for path in self.folder.glob("updates/*.safetensors")}
        steps = [t for t in sorted(stored) if (place[self.order[t]] >= 0).all()]
        candidates = torch.zeros(len(ids), dtype=torch.bool)
        candidates[self.positions(self.kept)] = True
        return Record(
            tuple(place[self.order[t]] for t in steps),
            tuple(_load(stored[t])["update"] for t in steps),
            candidates[split.index],
            split.train.checksum(),
        )


def restore(path: str | Path, model: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> None:
    """Put a checkpoint back into a model, and its state into an optimiser over the same parameters, in place."""
    held = _load(Path(path))
    told = {name.removeprefix("model."): value for name, value in held.items() if name.startswith("model.")}
    try:
        model.load_state_dict(told)
    except RuntimeError as error:
        raise ValueError(f"{path} is of another network: {str(error).splitlines()[0]}") from None
    if optimiser is not None:
        state = optimiser.state_dict()
        state["state"] = {}
        for name, value in held.items():
            if name.startswith("optimiser."):
                _, number, key = name.split(".", 2)
                state["state"].setdefault(int(number), {})[key] = value
        optimiser.load_state_dict(state)


def read(folder: str | Path) -> Recorded:
    """The record in a folder. ValueError in one line where there is none, it was changed, or training did not end."""
    place = Path(folder) / "record.json"
    try:
        told = json.loads(place.read_text(encoding="utf-8"))
        digest = told.pop("digest")
        if told["schema"] != SCHEMA or digest != content_digest(told):
            raise ValueError
    except OSError as error:
        raise ValueError(f"{place}: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError):
        raise ValueError(f"{place} is no record, or was changed after it was written") from None
    if told["state"] != "complete":
        raise ValueError(f"{folder} is the record of a training that did not end: call end(model) after its last step")
    return Recorded(Path(folder), tuple(told["ids"]), told["steps"], tuple(told["updates kept of"]), told["checksum"])
