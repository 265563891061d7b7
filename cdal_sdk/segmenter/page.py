"""`report.html`: a run as one page for people, which opens from disk and needs nothing beside it."""

from __future__ import annotations

import base64
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from cdal_sdk.atomic import atomic
from cdal_sdk.segmenter.report import CaseReport, Report
from cdal_sdk.writers import thumbnail

__all__ = ["write_page"]

_FILE = "report.html"
_MOST_PICTURES = 300  # within the page; further cases have a link to their preview
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1.5rem; max-width: 78rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } p { margin: .3rem 0; }
table { border-collapse: collapse; width: 100%; margin-top: 1rem; table-layout: fixed; }
col.case { width: 16%; } col.size { width: 15%; } col.spread { width: 6rem; } col.picture { width: 38%; }
th, td { text-align: left; vertical-align: top; padding: .5rem .7rem; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: Canvas; }
td { overflow-wrap: anywhere; } td.n { font-variant-numeric: tabular-nums; }
td small { opacity: .7; white-space: nowrap; } td img { max-width: 30rem; width: 100%; border-radius: 4px; }
.tag { border-radius: 1em; padding: .1em .7em; background: var(--soft); white-space: nowrap; }
.ok .tag { background: #2a93; } .failed .tag { background: #d33a; } .review .tag { background: #e904; }
.why { color: #b60; margin: .3rem 0 0; } .failed .why { color: #d33; }
#all:not(:checked) ~ table tr.fine { display: none; }
@media print { th { position: static; } tr { break-inside: avoid; } }
"""


def write_page(report: Report, out: Path) -> None:
    """Write `report.html`: the table of cases with sizes, spread, reasons to review, and previews.

    Raises:
        OutputError: it cannot be written.
    """
    # Pictures first for the cases that somebody has to look at.
    urgent = sorted(report.cases, key=lambda case: (not case.review, case.case))
    pictured = {case.case for case in urgent[:_MOST_PICTURES]}
    rows = "\n".join(_row(case, out, report.votes, embedded=case.case in pictured) for case in report.cases)
    counts = Counter(case.status for case in report.cases)
    flagged = sum(bool(case.review) for case in report.cases)
    told = ", ".join(f"{counts[status]} {status}" for status in ("ok", "skipped", "failed") if counts[status])
    settings = f"model {report.model} {report.model_version}, engine {report.engine} in {report.precision}"
    settings += f" on {report.device}, {report.votes} vote(s), seed {report.seed}, cDAL SDK {report.software}"
    settings += ", inputs outside the model's domain accepted" if report.force else ""
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Segmentation of {len(report.cases)} case(s)</title><style>{_STYLE}</style></head><body>
<h1>Segmentation of {len(report.cases)} case(s)</h1>
<p>{told or "nothing done yet"}; {flagged} to review</p><p><small>{escape(settings)}</small></p>
<p><small>Research software. Not a medical device. {_promise(report)}</small></p>
<input type="checkbox" id="all" checked><label for="all"> show cases without anything unusual, too</label>
<table><col class="case"><col><col class="size"><col class="spread"><col class="picture">
<thead><tr><th>case</th><th>result</th><th>size</th><th>spread</th><th>contours, spread</th></tr></thead>
<tbody>
{rows}
</tbody></table></body></html>
"""
    with atomic(out / _FILE) as path:
        path.write_text(text, encoding="utf-8")


def _promise(report: Report) -> str:
    if report.votes == 1:
        return "A single vote has no spread, and leaves no interval."
    if report.interval_coverage is None:
        return "Intervals are what the votes leave open, not calibrated."
    return (
        f"In {report.interval_coverage:.0%} of cases alike those that calibrated the model, "
        "the intervals hold the true sizes."
    )


def _row(case: CaseReport, out: Path, votes: int, *, embedded: bool) -> str:
    kind = case.status if case.status == "failed" else "review" if case.review else "ok"
    reasons = [case.error] if case.error else case.review
    why = "".join(f'<p class="why">{escape(reason)}</p>' for reason in reasons)
    sizes = "<br>".join(f"{escape(name)} {_size(size, spread=votes > 1)}" for name, size in case.labels.items())
    spread = "" if case.mean_spread is None or votes == 1 else f"{case.mean_spread:.3f}"
    return (
        f'<tr class="{kind}{" fine" if kind == "ok" else ""}"><td>{escape(case.case)}</td>'
        f'<td><span class="tag">{case.status}{", review" if case.review else ""}</span>{why}</td>'
        f'<td class="n">{sizes}</td><td class="n">{spread}</td><td>{_picture(case, out, embedded=embedded)}</td></tr>'
    )


def _size(size: dict[str, Any], *, spread: bool) -> str:
    for name, unit, digits in (("volume_ml", "ml", 3), ("area_mm2", "mm²", 1), ("area_px", "px", 0)):
        if name in size:
            interval = size.get(f"{name}_interval") if spread else None
            between = f" <small>({interval[0]:.{digits}f} to {interval[1]:.{digits}f})</small>" if interval else ""
            return f"{size[name]:.{digits}f} {unit}{between}"
    return ""


def _picture(case: CaseReport, out: Path, *, embedded: bool) -> str:
    name = next((name for name in case.outputs if name.startswith("previews/")), None)
    if name is None or not (out / name).is_file():
        return ""
    link = escape(name, quote=True)
    if not embedded:
        return f'<a href="{link}">preview</a>'
    try:
        picture = base64.b64encode(thumbnail(out / name)).decode()
    except OSError:
        return ""
    return f'<a href="{link}"><img loading="lazy" alt="preview" src="data:image/jpeg;base64,{picture}"></a>'
