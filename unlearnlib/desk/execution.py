"""Deletions carried out: batches of requests against one model, each in a folder of its own, none of them twice.

    FOLDER/queue.sqlite     requests, their states and the secret salt (private)
    FOLDER/case.json        what the desk is about: model, weights, data (private: it has paths)
    FOLDER/0001/            the first batch
        plan.json               what it touches, written before anything runs (private: it has ids)
        model.safetensors       the new weights; the old ones are never touched
        receipt.json, .html     what may be handed out

Every file appears whole or not at all, and a step whose file is there is not done again. So a run that was killed goes
on where it was when the same command is given once more, and ends in the same weights: all draws come from the seed.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from unlearnlib.desk import audits, plan, receipt
from unlearnlib.desk.cases import Case, Made, Order, Policy, carried_out, parameters_of, write_weights
from unlearnlib.desk.ids import pseudonym, pseudonyms
from unlearnlib.desk.queue import Queue, now
from unlearnlib.methods import registry
from unlearnlib.methods.records import Certificate
from unlearnlib.store import addresses, files
from unlearnlib.store.digests import versions
from unlearnlib.training import cluster as machines
from unlearnlib.training.jobs import Failed, Job
from unlearnlib.training.prediction import predict
from unlearnlib.training.work import multiplications


class Desk:
    """The deletions of one model. Raises ValueError where `folder` belongs to another case."""

    def __init__(self, folder: str | Path, case: Case):
        self.folder, self.case = Path(folder), case
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{folder} is a file: name a folder")
        told, place = plain(case), self.folder / "case.json"
        if place.exists():
            known = json.loads(place.read_text(encoding="utf-8"))
            other = [name for name in told if known.get(name) != told[name]]
            if other:
                raise ValueError(
                    f"{folder} answers for another {other[0]} ({known.get(other[0])!r:.100}): take a new one"
                )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.queue = Queue(self.folder / "queue.sqlite")

    def place(self, number: int) -> Path:
        """The folder of a batch."""
        return self.folder / f"{number:04d}"

    def weights_before(self, number: int) -> str | None:
        """The file of weights that batch `number` starts from; None: those of a Hugging Face folder."""
        return self.case.weights if number == 1 else str(self.place(number - 1) / "model.safetensors")

    def forget(
        self,
        policy: Policy,
        *,
        workers: int = 0,
        cluster: str | None = None,
        say: Callable[[str], object] = lambda line: None,
        only_plan: bool = False,
        anyway: bool = False,
    ) -> Path | None:
        """Carry out what is due; the folder of the batch, or None where nothing is.

        workers, cluster   run the method in a process of its own, or on a dask cluster that sees the same files
        only_plan          say what would be done, and leave the requests waiting
        anyway             go on where the plan is doubtful: the model is no better than its largest class

        Raises ValueError in one line on a request that cannot be carried out; its batch then waits again.
        """
        number = self.queue.take(policy.batching)
        if number is None:
            return None
        place = self.place(number)
        try:
            task = _Task(self, number, policy)
            made = task.planned()
            for line in made.lines():
                say(line)
            if made.doubtful and not (anyway or only_plan):
                raise ValueError(f"{made.doubtful}; or go on with --anyway")
            if only_plan:
                say(made.doubtful or "nothing speaks against it")
                return None
            self._begin(place, made, policy)
            task.run(workers, cluster)
        except ValueError:
            if not (place / "run.json").exists():  # nothing was made: the requests wait for a better command
                _removed(place)
            raise
        finally:
            if not place.exists():
                self.queue.release(number)
        task.finish(made)
        self.queue.finish(number)
        return place

    def _begin(self, place: Path, made: plan.Plan, policy: Policy) -> None:
        """Write down what is going to be done; after weights were made, it can no longer be something else."""
        if not (self.folder / "case.json").exists():
            files.write(self.folder / "case.json", as_json(plain(self.case)))
        place.mkdir(exist_ok=True)
        file, told = place / "plan.json", plain(policy)
        if (place / "run.json").exists():
            begun = json.loads(file.read_text(encoding="utf-8"))["policy"]
            if begun != told:
                raise ValueError(
                    f"batch {made.number} was carried out by {begun['method']} with other settings: keep them"
                )
        else:
            files.write(file, as_json({"policy": told, "plan": plain(made)}))


class _Task:
    """One batch of a desk."""

    def __init__(self, desk: Desk, number: int, policy: Policy):
        self.desk, self.number, self.policy, self.place = desk, number, policy, desk.place(number)
        self.requests, gone = desk.queue.requests(batch=number), desk.queue.gone(number)
        asked = {name for request in self.requests for name in request.ids}
        self.ids, self.already = sorted(asked - gone), len(asked & gone)
        self.source = desk.case.source()
        if not self.ids:
            desk.queue.finish(number)
            raise ValueError(f"all {len(asked)} ids of batch {number} were deleted before: nothing is left to do")
        self.forget, self.gone = self.source.positions(self.ids), self.source.positions(gone)
        self.before = desk.weights_before(number)
        self.opened = desk.case.opened(self.source, self.before)
        self.split = plan.split_of(self.source, self.forget, self.gone, policy.seed)

    def planned(self) -> plan.Plan:
        split, case = self.split, self.desk.case
        names = [self.source.ids[i] for i in split.index.tolist()]
        work = self._work(self.policy.method, parameters_of(case, self.policy, self.source, self.opened, split))
        again = None if case.recipe is None else self._work("retrain", {"recipe": case.recipe})
        right = predict(self.opened.model, split.train).argmax(1) == split.train.labels
        return plan.Plan(
            number=self.number,
            method=self.policy.method,
            requests=len(self.requests),
            forget=len(split.forget_index),
            retain=len(split.retain_index),
            already=self.already,
            classes=plan.by_class(split, self.source.class_names),
            twins=plan.twins(split, names),
            work=work,
            share=None if work is None or again is None else work / again,
            accuracy=float(right.double().mean()),
            largest_class=float(torch.bincount(split.train.labels).max()) / len(split.train),
        )

    def _work(self, method: str, parameters: Mapping[str, object]) -> float | None:
        split, model = self.split, self.opened.model
        sizes = {
            "validation": len(split.validation),
            "classes": len(self.source.class_names),
            "weights": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "multiplications": multiplications(model, split.train),
        }
        try:
            return registry.work(method, len(split.forget_index), len(split.retain_index), **sizes, **parameters)
        except ValueError:  # its cost is not known beforehand
            return None

    def run(self, workers: int, cluster: str | None) -> None:
        """The new weights and what was measured in making them, unless they are there."""
        if (self.place / "run.json").exists():
            return
        order = Order(self.desk.case, self.policy, self.before, self.forget, self.gone)
        jobs = [Job(f"batch {self.number}", carried_out, order, kept=True)]
        ((_, made),) = machines.execute(jobs, workers=workers, cluster=cluster)
        if isinstance(made, Failed):
            raise ValueError(made.reason.removeprefix("ValueError: "))
        files.write(self.place / "model.safetensors", write_weights(made))
        files.write(self.place / "run.json", as_json(_run(made)))  # the last: it says that the weights are whole

    def finish(self, made: plan.Plan) -> None:
        """The audits, the receipt and its page."""
        after = self.desk.case.opened(self.source, self.place / "model.safetensors").model
        _once(self.place / "audits.json", lambda: as_json(audits.audited(self.opened.model, after, self.split)))
        _once(self.place / "receipt.json", lambda: receipt.written(self._receipt(made)))
        done = receipt.read(self.place / "receipt.json")
        files.write(self.place / "receipt.html", receipt.page(done).encode())

    def _receipt(self, made: plan.Plan) -> dict[str, object]:
        run = json.loads((self.place / "run.json").read_text(encoding="utf-8"))
        certificate = None if run["certificate"] is None else Certificate(**run["certificate"])
        exact = {twin.retained for twin in made.twins if twin.distance == 0}
        near, salt = {twin.retained for twin in made.twins} - exact, self.desk.queue.salt
        old = self.before or Path(self.desk.case.model.partition(":")[2]) / "model.safetensors"
        earlier = self.desk.place(self.number - 1) / "receipt.json"
        content = {
            "schema": receipt.SCHEMA,
            "number": self.number,
            "requests": [{"key": pseudonym(salt, r.key), "asked": r.asked, "ids": len(r.ids)} for r in self.requests],
            "examples": {
                "deleted": made.forget,
                "retained": made.retain,
                "pseudonyms": pseudonyms(salt, self.ids),
                "exact copies": len(exact),
                "near copies": len(near),
            },
            "model": {
                "before": receipt.file_digest(old),
                "after": receipt.file_digest(self.place / "model.safetensors"),
            },
            "data": {"before": self.split.train.checksum(), "after": self.split.retain.checksum()},
            "method": {
                "name": self.policy.method,
                "parameters": run["parameters"],
                "seed": self.policy.seed,
                "code": run["code"],
                "versions": versions(),
            },
            "guarantee": receipt.in_words(certificate, len(exact) + len(near)),
            "audits": json.loads((self.place / "audits.json").read_text(encoding="utf-8")),
            "cost": {**run["cost"], "share": made.share},
            "ended": now(),
            "previous": receipt.read(earlier)["digest"] if self.number > 1 else "",
        }
        return receipt.sealed(content, salt)


def _run(made: Made) -> dict[str, object]:
    certificate = None if made.certificate is None else dataclasses.asdict(made.certificate)
    cost = {"seconds": round(made.cost.seconds, 3), "work": made.cost.work}
    return {"cost": cost, "certificate": certificate, "parameters": made.parameters, "code": made.code}


def plain(value: object) -> dict[str, object]:
    """A dataclass as a mapping of plain data."""
    return {f.name: addresses.plain(getattr(value, f.name)) for f in dataclasses.fields(value)}


def as_json(content: object) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _once(path: Path, make: Callable[[], bytes]) -> None:
    """Write a file unless it is there."""
    if not path.exists():
        files.write(path, make())


def _removed(place: Path) -> None:
    """Take away the folder of a batch that made nothing."""
    for file in place.glob("*"):
        file.unlink()
    if place.exists():
        place.rmdir()


def positions(desk: Desk, number: int, source) -> tuple[Tensor, Tensor]:
    """The examples that batch `number` deleted, and those that earlier ones did, by position in the data."""
    gone = desk.queue.gone(number)
    asked = {name for request in desk.queue.requests(batch=number) for name in request.ids}
    return source.positions(asked - gone), source.positions(gone)
