"""The receipt of a deletion: plain data with a digest and a seal, and a page that a person can read.

    digest    SHA-256 of everything else in the receipt: anyone finds a changed byte
    seal      HMAC-SHA256 of the same with the salt of the queue: only its owner can seal, so that nobody else can
              change the receipt and make its digest anew
    previous  digest of the receipt before: a missing one is found

No id, key, path or picture is in it. What was deleted is named by pseudonyms (see `ids`).
"""

import hashlib
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path

from unlearnlib._extras import optional
from unlearnlib.desk.ids import seal
from unlearnlib.methods.records import Certificate
from unlearnlib.store.addresses import canonical
from unlearnlib.store.digests import content_digest

SCHEMA = "unlearnlib receipt 1"
# field -> type; a receipt has these and no others
FIELDS = {
    "schema": str,
    "number": int,
    "requests": list,
    "examples": dict,
    "model": dict,
    "data": dict,
    "method": dict,
    "guarantee": dict,
    "audits": list,
    "cost": dict,
    "ended": str,
    "previous": str,
    "digest": str,
    "seal": str,
}
_SEALED = ("digest", "seal")


def sealed(content: Mapping[str, object], salt: str) -> dict[str, object]:
    """`content` with its digest and seal."""
    bare = {name: value for name, value in content.items() if name not in _SEALED}
    return {**bare, "digest": content_digest(bare), "seal": seal(salt, bare)}


def intact(receipt: Mapping[str, object]) -> bool:
    """Whether the digest is that of the rest."""
    return receipt["digest"] == content_digest({k: v for k, v in receipt.items() if k not in _SEALED})


def sealed_by(receipt: Mapping[str, object], salt: str) -> bool:
    return receipt["seal"] == seal(salt, {k: v for k, v in receipt.items() if k not in _SEALED})


def read(path: str | Path) -> dict[str, object]:
    """The receipt in a file. ValueError in one line where it is none, or has other fields than `FIELDS`."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{path} is no receipt: it is no JSON") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no receipt that this version reads: its schema is not {SCHEMA!r}")
    wrong = sorted(set(found) ^ set(FIELDS)) or [n for n, kind in FIELDS.items() if not isinstance(found[n], kind)]
    if wrong:
        raise ValueError(f"{path} is no receipt: {wrong[0]} is missing, of another type, or not known")
    return found


def written(receipt: Mapping[str, object]) -> bytes:
    return (json.dumps(receipt, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def file_digest(path: str | Path) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_words(certificate: Certificate | None, copies: int) -> dict[str, object]:
    """The guarantee of a receipt, or its absence, as a person reads it."""
    if certificate is None:
        words = (
            "No guarantee. Nothing is proven about what the new model still knows of the deleted examples; the audits "
            "below say what was looked for and with what power. Finding nothing is no proof."
        )
        return {"kind": "none", "epsilon": None, "delta": None, "words": words}
    if certificate.kind == "exact":
        words = f"Exact: the new model is one that could have come from {certificate.compared_with}."
    else:
        words = (
            f"Certified: whoever sees the new model can hardly tell it from one that came from "
            f"{certificate.compared_with}: epsilon {certificate.epsilon:g}, delta {certificate.delta:g}."
        )
    if copies:
        words += (
            f" The retained data hold {copies} copies or near copies of deleted examples, which the model has learnt."
        )
    return {
        "kind": certificate.kind,
        "epsilon": certificate.epsilon,
        "delta": certificate.delta,
        "words": words,
    }


def page(receipt: Mapping[str, object]) -> str:
    """The receipt as an HTML page that needs nothing else."""
    sections = "\n".join(f"<h2>{html.escape(title)}</h2>\n{_table(rows)}" for title, rows in _sections(receipt) if rows)
    words = html.escape(str(receipt["guarantee"]["words"]))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Receipt {receipt["number"]}</title><style>{_STYLE}</style></head><body><main>
<h1>Receipt of deletion {receipt["number"]}</h1>
<p class="guarantee {html.escape(str(receipt["guarantee"]["kind"]))}">{words}</p>
{sections}
<p class="small">Check it with <code>unlearn verify receipt.json</code>. Digest <code>{receipt["digest"]}</code></p>
</main></body></html>
"""


def pdf(receipt: Mapping[str, object]) -> bytes:
    """The same as a PDF, the lines of the page on A4; needs matplotlib (extra `book`)."""
    optional("matplotlib").use("agg")
    figures, pages = optional("matplotlib.figure"), optional("matplotlib.backends.backend_pdf")
    lines = [f"Receipt of deletion {receipt['number']}", "", *_wrapped(str(receipt["guarantee"]["words"]))]
    for title, rows in _sections(receipt):
        lines += ["", title, *(part for row in rows for part in _wrapped("   ".join(map(str, row)), "    "))]
    buffer = io.BytesIO()
    with pages.PdfPages(buffer, metadata={"CreationDate": None, "Title": lines[0]}) as file:
        for start in range(0, len(lines), 66):
            figure = figures.Figure(figsize=(8.27, 11.69))
            text = "\n".join(lines[start : start + 66])
            figure.text(0.07, 0.95, text, va="top", family="monospace", size=8, parse_math=False)
            file.savefig(figure)
    return buffer.getvalue()


def _wrapped(text: str, indent: str = "", width: int = 100) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, subsequent_indent=indent) or [""]


def _sections(receipt: Mapping[str, object]) -> list[tuple[str, list[tuple]]]:
    """Title -> rows of texts."""
    asked = sorted(request["asked"] for request in receipt["requests"])
    examples, model, data, method = (receipt[name] for name in ("examples", "model", "data", "method"))
    cost = receipt["cost"]
    share = "not known" if cost["share"] is None else f"{cost['share']:.3g} of training again"
    settings = ", ".join(f"{name}={canonical(value)}" for name, value in method["parameters"].items())
    audits = [("", "before", "after", "what it says")] if receipt["audits"] else []
    for found in receipt["audits"]:
        ends = ("{:.3f} [{:.3f}, {:.3f}]".format(*found[when]) for when in ("before", "after"))
        audits.append((found["audit"], *ends, found["verdict"]))
    return [
        (
            "What was asked, and when",
            [
                ("requests", len(receipt["requests"])),
                ("first asked", asked[0]),
                ("last asked", asked[-1]),
                ("carried out", receipt["ended"]),
                ("examples deleted", examples["deleted"]),
                ("examples that stay", examples["retained"]),
                ("copies that stay", f"{examples['exact copies']} exact, {examples['near copies']} near"),
            ],
        ),
        (
            "What was done",
            [
                ("method", method["name"]),
                ("parameters", settings),
                ("seed", method["seed"]),
                ("versions", ", ".join(f"{name} {version}" for name, version in method["versions"].items())),
                ("code", method["code"]),
                ("cost", f"{cost['seconds']:.1f} s, {share}"),
            ],
        ),
        ("What was looked for", audits),
        (
            "Fingerprints (SHA-256)",
            [
                ("weights before", model["before"]),
                ("weights after", model["after"]),
                ("data before", data["before"]),
                ("data that stay", data["after"]),
                ("receipt before", receipt["previous"] or "none: this is the first"),
            ],
        ),
        ("Who was deleted", [("pseudonyms", " ".join(examples["pseudonyms"]))]),
    ]


def _table(rows) -> str:
    body = []
    for row in rows:
        first, *rest = (html.escape(str(value)) for value in row)
        head = row[0] == ""
        cells = "".join(f"<th>{v}</th>" if head else f"<td>{v}</td>" for v in rest)
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return f"<div><table>{''.join(body)}</table></div>"


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1c2733;background:#fff;margin:0}"
    "main{max-width:52rem;margin:2rem auto;padding:0 1rem}h1{font-size:1.6rem}h2{font-size:1.1rem;margin-top:2rem}"
    "div{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}"
    "th,td{text-align:left;vertical-align:top;padding:.25rem .9rem .25rem 0;border-bottom:1px solid #dde3ea;"
    "overflow-wrap:anywhere}th{font-weight:600;min-width:8rem}"
    ".guarantee{border-left:4px solid #b3541e;background:#fdf3ec;padding:.8rem 1rem}"
    ".guarantee.exact,.guarantee.approximate{border-color:#2a6f97;background:#eef5fa}"
    ".small{font-size:.8rem;color:#4a5868;overflow-wrap:anywhere;margin-top:2rem}"
)
