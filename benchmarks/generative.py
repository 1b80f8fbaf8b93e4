"""Chapter 15 on a larger sampler: a U-Net in the pixels of 28 by 28, at three seeds. `book/samplers.md` shows it.

    python benchmarks/generative.py            a quarter of an hour on one core; continues where it was stopped
    python benchmarks/generative.py 1          one seed
    python benchmarks/generative.py --there    nothing is trained: write the rows that are there for all seeds

For each seed: 10,000 digits of MNIST; one sampler that is taught all of them, one without the 3 from the same start and
one from another, and each method with the library's defaults, which nobody chose for this network, at the batch of
teaching. The judge is taught 20,000 other digits, and the real pictures of the Frechet distance are of the test set.
Every sampler that is taught, and every row of the table, is kept in ~/.cache/unlearnlib-sampler, each in a file that
is there whole or not at all.
"""

import argparse
import base64
import io
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from _machine import ENVIRONMENT, machine  # noqa: E402

ENVIRONMENT = {**ENVIRONMENT, "UNLEARN_FAST": "1"}
RESULT = ROOT / "book/benchmarks/generative.json"
SEEDS, FORGET = (0, 1, 2), 3
PICTURES, JUDGED, UNSEEN, REAL = 10_000, 20_000, 1_000, 2_000
STEPS, BATCH, AVERAGE = 1500, 32, 0.995  # of teaching; a method takes the same batch
SAMPLES, ASKED = 360, 120  # of retained classes, and of the forgotten one
WAYS = {  # name on the page -> method, what differs from its defaults
    "redirect": ("redirect", {}),
    "redirect + distil": ("redirect", {"distil": 5.0}),
    "finetune": ("finetune", {}),
    "ascent": ("ascent", {}),
    "salun": ("salun", {}),
    "noise_target": ("noise_target", {}),
    "selective_amnesia": ("selective_amnesia", {}),
}
RETRAINED = {"retrain, other seed": 1000, "retrain": 0}  # what is added to the seed of teaching
NULL = "retrain, other seed"
NAMES = ("original", "original at -z", "retrain, other seed", *WAYS, "retrain")  # in this order


@dataclass(frozen=True)
class Drawn:
    """A sampler whose pictures are drawn already."""

    pictures: object  # [n, C, H, W]

    def sample(self, noise, labels):
        return self.pictures


@dataclass(frozen=True)
class Setting:
    """One seed: the pictures, what they are judged by, and how long a sampler is taught."""

    folder: Path
    seed: int
    split: object
    judge: object
    real: object  # features of real pictures of retained classes
    forget: int = FORGET
    steps: int = STEPS

    @classmethod
    def of(cls, folder: Path, seed: int, forget: int = FORGET, steps: int = STEPS) -> "Setting":
        import torch

        from unlearnlib import data, seeding

        ds = data.load("mnist")
        order = torch.randperm(len(ds.train), generator=seeding.generator(seed, "samplers", "pictures"))
        mine, judged, unseen = (ds.train[part] for part in order.split([PICTURES, JUDGED, UNSEEN, *rest(order)])[:3])
        gone, kept = mine.labels == forget, ds.test.labels != forget
        split = data.Split.of(retain=mine[~gone], forget=mine[gone], validation=unseen, test=ds.test, seed=seed)
        judge = judge_of(folder / f"{seed}-judge.safetensors", judged, seed)
        return cls(folder, seed, split, judge, judge.features(ds.test[kept][:REAL].pixels()), forget, steps)

    def untaught(self, seed: int):
        from unlearnlib.generative import diffusion, latent, unet

        shape = self.split.train.shape
        network = unet.UNet.build(shape, 10, seed)
        return diffusion.Diffusion(network, latent.Latent.pixels(shape), diffusion.cosine_levels(100), 10)

    def taught(self, name: str, further: int = 0):
        """(sampler, CPU seconds, work): taught all pictures or, where it is retrained, those that are to stay."""
        from unlearnlib import generative
        from unlearnlib.training import weights
        from unlearnlib.training.work import Tally

        path = self.folder / f"{self.seed}-{name}.safetensors"
        told = path.with_suffix(".taught.json")
        if told.exists():
            facts = json.loads(told.read_text())
            return weights.load(self.untaught(0), path), facts["seconds"], facts["work"]
        part = self.split.train if name == "original" else self.split.retain
        began, tally = time.process_time(), Tally()
        teaching = generative.Teaching(steps=self.steps, batch_size=BATCH, average=AVERAGE)
        start = self.untaught(self.seed + further)
        sampler = generative.fit(start, part, teaching, seed=self.seed + further, tally=tally)
        weights.save(sampler, path)
        facts = {"seconds": time.process_time() - began, "work": tally.work}
        keep(told, facts)
        return sampler, facts["seconds"], facts["work"]

    def made(self, name: str):
        """(sampler, CPU seconds, work) of a row of the table."""
        from unlearnlib import generative

        if name == "original":
            return self.taught("original")[0], 0.0, 0.0
        if name == "original at -z":
            return generative.Mirrored(self.taught("original")[0]), 0.0, 0.0
        if name in RETRAINED:
            return self.taught(name, RETRAINED[name])
        method, options = WAYS[name]
        began, original = time.process_time(), self.taught("original")[0]
        options = {"forget": self.forget, "seed": self.seed, "batch_size": BATCH, **options}
        done = generative.unlearn(method, original, self.split, **options)
        return done.model, time.process_time() - began, done.cost.work

    def row(self, name: str) -> dict:
        """What is measured of one sampler; kept."""
        path = self.folder / f"{self.seed}-{name}.json"
        if path.exists():
            return json.loads(path.read_text())
        sampler, seconds, work = self.made(name)
        found = {"method": name, "seed": self.seed, **self.measured(sampler)}
        found |= {"seconds": round(seconds, 1), "cost": work / self.taught(NULL, RETRAINED[NULL])[2]}
        keep(path, found)
        print(self.seed, name, {k: round(v, 3) for k, v in found.items() if isinstance(v, float)}, flush=True)
        return found

    def measured(self, sampler) -> dict:
        import torch

        from unlearnlib import generative, seeding

        original, judge = self.taught("original")[0], self.judge
        z = original.noise(SAMPLES, seeding.generator(self.seed, "samplers", "audit"))
        kept = torch.tensor([k for k in range(10) if k != self.forget])
        c, few = kept[torch.arange(SAMPLES) % 9], z[:ASKED]
        before, after = (Drawn(s.sample(z, c)) for s in (original, sampler))
        gone = Drawn(sampler.sample(few, torch.full((ASKED,), self.forget)))
        crowd = judge.features(after.pictures)
        shown = torch.cat([gone.pictures[:1], after.pictures[:9]])  # z of the first, and one of each retained class
        again = None
        if not isinstance(sampler, generative.Mirrored):
            lesson = generative.Teaching(steps=20, batch_size=30, lr=1e-3, average=0.0)
            taught = generative.fit(sampler, self.split.forget[:30], lesson, seed=self.seed)
            again = generative.forget_rate(taught, judge, few, self.forget)
        return {
            "still shown": generative.forget_rate(gone, judge, few, self.forget),
            "I": generative.integrity(before, after, z, c, judge.features),
            "apart": (crowd - crowd.roll(9, 0)).norm(dim=1).mean().item(),  # other pictures of the same labels
            "FD": generative.frechet(crowd, self.real),
            "agreement": generative.agreement(after, judge, z, c),
            "relearned": again,
            **({"pictures": strip(shown)} if self.seed == SEEDS[0] else {}),
        }


def judge_of(path: Path, examples, seed: int):
    """The judge of a seed, taught or loaded."""
    from unlearnlib.generative import judge
    from unlearnlib.training import weights

    if not path.exists():
        weights.save(judge.Judge.fit(examples, 10, seed, epochs=10), path)
    return weights.load(judge.Judge(examples.shape, 10), path).requires_grad_(False).eval()


def rest(order) -> list[int]:
    return [len(order) - PICTURES - JUDGED - UNSEEN]


def strip(pictures) -> str:
    """Pictures [n, 1, H, W] beside each other, as a PNG in base64."""
    from PIL import Image

    side, raw = pictures.permute(2, 0, 3, 1).flatten(1), io.BytesIO()
    Image.fromarray((255 * side).round().byte().numpy()).save(raw, format="png", optimize=True)
    return base64.b64encode(raw.getvalue()).decode()


def keep(path: Path, facts) -> None:
    """Write facts, all or nothing."""
    from unlearnlib.store.files import write

    write(path, (json.dumps(facts, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/unlearnlib-sampler")
    parser.add_argument("--there", action="store_true", help="train nothing, write the rows that are there")
    parser.add_argument("seeds", nargs="*", type=int)
    args = parser.parse_args()
    if not {*args.seeds} <= {*SEEDS}:
        parser.error(f"seeds are {SEEDS}")
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    args.folder.mkdir(parents=True, exist_ok=True)
    seeds = () if args.there else args.seeds or SEEDS
    settings = {seed: Setting.of(args.folder, seed) for seed in seeds}
    for name in NAMES:
        for setting in settings.values():
            setting.row(name)
    write_results(args.folder)


def write_results(folder: Path) -> None:
    """Write the rows that are there for all seeds, once the chapter's claims can be put to them."""
    there = [name for name in NAMES if all((folder / f"{seed}-{name}.json").exists() for seed in SEEDS)]
    if {*NAMES[: NAMES.index("salun")]} <= {*there}:
        paths = [folder / f"{seed}-{name}.json" for seed in SEEDS for name in there]
        keep(RESULT, told([json.loads(path.read_text()) for path in paths], folder))


def told(rows: list[dict], folder: Path) -> dict:
    """What is committed: the rows, how they were made, and what teaching took."""
    seconds = [json.loads(path.read_text())["seconds"] for path in sorted(folder.glob("*.taught.json"))]
    return {
        "forget": FORGET,
        "seeds": len(SEEDS),
        "pictures": PICTURES,
        "steps": STEPS,
        "batch": BATCH,
        "samples": SAMPLES,
        "teaching seconds": round(sum(seconds) / len(seconds)),
        "machine": machine(),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
