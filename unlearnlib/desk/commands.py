"""The commands of the desk: `unlearn forget`, `unlearn queue` and `unlearn verify`."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from unlearnlib._commands import Parser

FORGET = """\
examples:
  unlearn forget --model cnn --weights cnn.safetensors --data digits --request ids.csv --policy finetune -o desk
  unlearn forget --model timm:resnet18 --weights w.safetensors --data folder:pictures --size 64 --request ids.txt \\
      --mean 0.5 0.5 0.5 --std 0.25 0.25 0.25 --policy retrain --recipe epochs=10 lr=0.01 -o desk
  unlearn forget --model my.nets:Net --weights w.safetensors --data npz:data.npz --request ids.jsonl \\
      --policy neggrad_plus -p lr=0.001 -p epochs=2 -o desk --plan

model:    resnet18 (of this library), torchvision:NAME, timm:NAME, hf:FOLDER, package.module:NAME
data:     digits (of this library), folder:PATH, npz:PATH, parquet:PATH, datasets:PATH
request:  .csv with a column id (and key, asked), .jsonl with key and ids, or .txt with an id a line
policy:   a name of `unlearn methods`; or auto, the best admissible one by --quality, or retraining by --guarantee exact

Each batch gets a folder: DESK/0001/model.safetensors with the new weights, receipt.json and receipt.html. The old
weights are not touched. The same command again goes on where it was killed, and does nothing twice.

exit status: 0 done, or nothing was due; 2 a wrong request; 130 interrupted, 143 terminated
"""
QUEUE = """\
examples:
  unlearn queue desk                      what was asked for, and what became of it
  unlearn queue desk --add ids.csv        ask, and carry out later: unlearn forget without --request
  unlearn queue desk --state waiting

exit status: 0 all well, 2 a wrong request
"""
VERIFY = """\
examples:
  unlearn verify desk/0001/receipt.json                   all checks: the desk is found beside the receipt
  unlearn verify receipt.json                             what can be checked without it
  unlearn verify receipt.json --desk desk --pdf out.pdf   and the receipt as a PDF

exit status: 0 nothing fails, 1 something does, 2 a wrong request
"""


def command(argv: Sequence[str]) -> int:
    name, *rest = argv
    return {"forget": _forget, "queue": _queue, "verify": _verify}[name](rest)


def forget_parser() -> Parser:
    parser = Parser(prog="unlearn forget", description="Delete examples from a trained model.", epilog=FORGET)
    parser.add_argument("--model", required=True, help="the network, see below")
    parser.add_argument("--weights", help="its weights, a safetensors file (not needed for hf:FOLDER)")
    parser.add_argument("--data", required=True, help="what it was trained on, see below")
    parser.add_argument("--held-out", metavar="DATA", help="the same of others, never trained on; audits need them")
    parser.add_argument("--request", action="append", default=[], metavar="FILE", help="who is to be deleted")
    parser.add_argument("--policy", required=True, metavar="METHOD", help="how, see below")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="of the method")
    parser.add_argument("-o", "--desk", required=True, metavar="DESK", help="folder of the deletions of this model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="side of the pictures, read from files")
    parser.add_argument(
        "--mean", type=float, nargs="+", default=(), help="that the pipeline subtracts, a number a channel"
    )
    parser.add_argument("--std", type=float, nargs="+", default=(), help="that it divides by")
    parser.add_argument(
        "--recipe", nargs="+", metavar="NAME=VALUE", help="how the model was trained: epochs=10 lr=0.01"
    )
    parser.add_argument("--start", metavar="WEIGHTS", help="what training began with, if it was not drawn at random")
    parser.add_argument("--record", metavar="FOLDER", help="of the Recorder that was there in training")
    parser.add_argument("--guarantee", choices=("none", "exact"), default="none", help="that is wanted")
    parser.add_argument("--budget", type=float, default=1.0, help="largest cost, as a share of retraining")
    parser.add_argument("--access", default="retain, forget", help='sets that can be read: "retain", "forget", or both')
    parser.add_argument(
        "--quality", metavar="FILE:COLUMN", help="csv of a benchmark: method, and a score (less is better)"
    )
    parser.add_argument("--wait-for", type=int, default=1, metavar="N", help="examples that make a batch due")
    parser.add_argument(
        "--wait-days", type=float, default=float("inf"), metavar="D", help="or the age of the oldest request"
    )
    parser.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--anyway", action="store_true", help="although the model is no better than its largest class")
    parser.add_argument("--workers", type=int, default=0, help="1: in a process of its own")
    parser.add_argument("--cluster", metavar="ADDRESS", help="on a dask cluster that sees the same files")
    return parser


def _forget(words: Sequence[str]) -> int:
    args = forget_parser().parse_args(words)
    from unlearnlib.desk.cases import Case, Policy, parsed
    from unlearnlib.desk.execution import Desk
    from unlearnlib.desk.queue import Batching, read_requests
    from unlearnlib.methods import registry
    from unlearnlib.training.recipe import Recipe

    case = Case(
        _located(args.model, ("hf",)),
        _file(args.weights),
        _located(args.data),
        None if args.held_out is None else _located(args.held_out),
        args.size,
        tuple(args.mean),
        tuple(args.std),
        None if args.recipe is None else Recipe(**_known(Recipe, parsed(Recipe, args.recipe))),
        _file(args.start),
        _file(args.record),
    )
    batching = Batching(args.wait_for, args.wait_days)
    asked = [request for file in args.request for request in read_requests(file)]
    desk = Desk(args.desk, case)
    for request in asked:
        desk.queue.add(request.key, request.ids, request.asked)
    method = args.policy
    if method == "auto":
        method = _chosen(desk, args)
        print(f"auto: {method}")
    kind = registry.find(method).config
    policy = Policy(method, parsed(kind, args.parameter), args.seed, batching, args.access)
    where = {"workers": args.workers, "cluster": args.cluster}
    place = desk.forget(policy, **where, say=print, only_plan=args.plan, anyway=args.anyway)
    if place is None:
        print("nothing was done" if args.plan else "nothing is due")
    else:
        print(f"done: {place / 'model.safetensors'}, {place / 'receipt.json'}")
    return 0


def _chosen(desk, args) -> str:
    """The first admissible method."""
    from unlearnlib.desk.admission import Sizes, admissible, read_quality
    from unlearnlib.methods import registry

    if args.quality is None and args.guarantee != "exact":
        raise ValueError("auto needs a measured quality, --quality FILE.csv:COLUMN, or --guarantee exact")
    if desk.case.recipe is None:
        raise ValueError("auto compares with the cost of retraining: give --recipe")
    quality = None
    if args.quality is not None:
        file, colon, column = args.quality.rpartition(":")
        if not colon:
            raise ValueError(f"--quality is FILE.csv:COLUMN, not {args.quality!r:.60}")
        quality = read_quality(file, column)
    source = desk.case.source()
    gone = desk.queue.gone()
    waiting = {n for state in ("running", "waiting") for r in desk.queue.requests(state) for n in r.ids} - gone
    sizes = Sizes(len(waiting), len(source.ids) - len(gone) - len(waiting), len(source.class_names))
    again = registry.work("retrain", sizes.forget, sizes.retain, recipe=desk.case.recipe)
    wanted = {"guarantee": args.guarantee, "budget": args.budget, "access": args.access}
    given = () if desk.case.record is None else ("record",)
    found = admissible(**wanted, request=sizes, retraining=again, given=given, quality=quality)
    good = [v for v in found if v.admissible and (quality is None or v.quality is not None)]
    if not good:
        raise ValueError("no method is admissible: raise the budget, give access to more, or want less")
    return good[0].method


def _known(kind: type, found: dict) -> dict:
    unknown = [name for name in found if name not in kind.__dataclass_fields__]
    if unknown:
        raise ValueError(f"a recipe has no {unknown[0]!r:.40}: it has {', '.join(kind.__dataclass_fields__)}")
    return found


def _file(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())


def _located(spec: str, kinds: tuple[str, ...] = ("folder", "npz", "parquet", "datasets")) -> str:
    """A specification with an absolute path, so that the desk can be used from any folder."""
    kind, colon, path = spec.partition(":")
    return f"{kind}:{_file(path)}" if colon and path and kind in kinds else spec


def _queue(words: Sequence[str]) -> int:
    parser = Parser(prog="unlearn queue", description="The requests of a desk.", epilog=QUEUE)
    parser.add_argument("desk", metavar="DESK", help="its folder; it is made with --add where it is not there")
    parser.add_argument("--add", action="append", default=[], metavar="FILE", help="ask for what is in the file")
    parser.add_argument("--state", choices=("waiting", "running", "done"))
    args = parser.parse_args(words)
    from unlearnlib.desk.queue import Queue, read_requests

    folder = Path(args.desk)
    asked = [request for file in args.add for request in read_requests(file)]
    if asked:
        folder.mkdir(parents=True, exist_ok=True)
    elif not (folder / "queue.sqlite").is_file():
        raise ValueError(f"{folder} has no queue: add a request, or name the folder of a desk")
    queue = Queue(folder / "queue.sqlite")
    for request in asked:
        queue.add(request.key, request.ids, request.asked)
    for request in queue.requests(args.state):
        batch = "" if request.batch is None else f"batch {request.batch:04d}"
        print(f"{request.asked}  {request.state:8s} {len(request.ids):6d} ids  {request.key}  {batch}".rstrip())
    return 0


def _verify(words: Sequence[str]) -> int:
    parser = Parser(prog="unlearn verify", description="Check the receipt of a deletion.", epilog=VERIFY)
    parser.add_argument("receipt", metavar="RECEIPT", help="a receipt.json")
    parser.add_argument("--desk", help="the folder of the desk that wrote it")
    parser.add_argument("--pdf", metavar="FILE", help="also write the receipt as a PDF (extra book)")
    args = parser.parse_args(words)
    from unlearnlib.desk.receipt import pdf, read
    from unlearnlib.desk.verifying import verify
    from unlearnlib.store import files

    checks = verify(args.receipt, args.desk)
    for check in checks:
        print(f"{check.state:9s}  {check.what}{': ' + check.detail if check.detail else ''}")
    if args.pdf is not None:
        files.write(Path(args.pdf), pdf(read(args.receipt)))
    return int(any(check.state == "FAILS" for check in checks))


def examples() -> list[list[str]]:
    """The commands of the help pages, as words."""
    lines = re.sub(r"\\\n\s*", "", FORGET + QUEUE + VERIFY).splitlines()
    return [shlex.split(line.strip().split("   ")[0]) for line in lines if line.startswith("  unlearn ")]
