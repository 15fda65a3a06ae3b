"""A release as one HTML page that needs nothing else: a table, and the intervals drawn.

Every text in a release was written by somebody else; all of it is escaped, and the page forbids
itself scripts and anything from elsewhere.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from fluvial.gate.release import Release, RiskTerms

_WIDTH, _ROW, _LEFT, _RIGHT = 760, 58, 190, 20
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CLASSES = {"PASS": "pass", "FAIL": "fail", "NOT ENOUGH EVIDENCE": "open"}
_STYLE = """
:root { color-scheme: light dark; --ink: #15212a; --quiet: #5f6e78; --line: #dbe2e6;
  --paper: #fff; --pass: #1a7f4b; --fail: #b3261e; --open: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf1; --quiet: #9fb0ba; --line: #33424c;
  --paper: #11191f; --pass: #5fce93; --fail: #ff8a80; --open: #f0b94a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 820px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
code { font-size: 12px; overflow-wrap: anywhere; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .open { color: var(--open); }
.verdict, .note { font-weight: 600; } .quiet { color: var(--quiet); }
.scroll { overflow-x: auto; }
span.bar { white-space: nowrap; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .quiet { fill: var(--quiet); } svg .axis { stroke: var(--line); }
svg .bar { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 3 3; }
svg .pass { stroke: var(--pass); } svg .fail { stroke: var(--fail); }
svg .open { stroke: var(--open); } svg .span { stroke-width: 6; stroke-linecap: butt; }
svg circle { fill: var(--paper); stroke: var(--ink); stroke-width: 1.5; }
"""
_LIMITS = (
    "The verdicts are about the samples of this plan and what is like them, on the files named "
    "here. They say nothing about attacks that nobody tried, about harm that the tasks do not "
    "measure, or about a judge whose errors on these answers differ from those on its labelled "
    "set. Simulated people are not people. A PASS is a bound on a rate, not its absence."
)


def save_report(release: Release, path: Path, *, note: str, now: float) -> None:
    """Write the page to `path`. Raises StorageError."""
    from fluvial.store.file import write_atomically

    write_atomically(path, write_report(release, note=note, now=now).encode())


def write_report(release: Release, *, note: str = "", now: float) -> str:
    """Return the page. `note` is a remark on its validity; `now` seconds since the epoch."""
    terms = release.terms
    title = f"Release of {_write(terms.model)}"
    state = "every risk passed" if release.passed else "not every risk passed"
    kind = "pass" if release.passed else "open"
    remark = f'<p class="note fail">{_write(note)}</p>' if note else ""
    if now >= terms.expires_at:
        remark += '<p class="note fail">It has expired.</p>'
    use = "" if release.passed else ": never valid for production"
    body = "\n".join(
        [
            f"<h1>{title}</h1>",
            f'<p class="verdict {kind}">{state}{use}</p>{remark}',
            f'<div class="scroll">{draw_intervals(terms.risks)}</div>',
            '<p class="quiet">The line spans both bounds, each with confidence 1 − alpha; the '
            "dashed line is the bar, the ring the share as it was seen or flagged.</p>",
            f"<h2>Risks</h2>{_write_risks(terms.risks)}",
            f"<h2>What is released</h2>{_write_subjects(release)}",
            f"<h2>Terms</h2>{_write_terms(release)}",
            f"<h2>What this does not prove</h2><p>{_LIMITS}</p>",
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def draw_intervals(risks: Sequence[RiskTerms]) -> str:
    """Return an SVG with a row for each risk, each on a scale of its own around its bar."""
    height = _ROW * len(risks) + 10
    rows = "\n".join(_draw_risk(risk, top=_ROW * index) for index, risk in enumerate(risks))
    return (
        f'<svg role="img" aria-label="Intervals and bars" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}">\n{rows}\n</svg>'
    )


def choose_scale(risk: RiskTerms) -> tuple[float, float]:
    """Return the ends of a risk's axis: the bar, the bounds and some room, within 0 to 1."""
    if risk.direction == "at_most":
        return 0.0, min(1.0, 1.15 * max(risk.bound_above, 1.5 * risk.bar))
    low = min(risk.bound_below, 1 - 1.5 * (1 - risk.bar))
    return max(0.0, 1 - 1.15 * (1 - low)), 1.0


def _draw_risk(risk: RiskTerms, *, top: float) -> str:
    low, high = choose_scale(risk)
    kind = _CLASSES[risk.verdict]

    def place(share: float) -> float:
        return _LEFT + (share - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    y = top + 26
    left, right, bar = place(risk.bound_below), place(risk.bound_above), place(risk.bar)
    clusters = risk.evidence.clusters
    seen = risk.evidence.failed / clusters if clusters else None
    if seen is not None and risk.direction == "at_least":
        seen = 1 - seen
    parts = [
        f'<text x="0" y="{y}">{_write(_cut(risk.name, 24))}</text>',
        f'<text x="0" y="{y + 16}" class="quiet">{_write(risk.verdict.lower())}</text>',
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>',
        f'<line class="span {kind}" x1="{left:.1f}" x2="{max(right, left + 1):.1f}" '
        f'y1="{y}" y2="{y}"/>',
        f'<line class="bar" x1="{bar:.1f}" x2="{bar:.1f}" y1="{y - 14}" y2="{y + 8}"/>',
        f'<text x="{bar:.1f}" y="{y - 16}" text-anchor="middle">{_share(risk.bar)}</text>',
        f'<text x="{_LEFT}" y="{y + 22}" class="quiet">{_share(low)}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{y + 22}" text-anchor="end" class="quiet">'
        f"{_share(high)}</text>",
    ]
    if seen is not None and low <= seen <= high:
        parts.append(f'<circle cx="{place(seen):.1f}" cy="{y}" r="4"/>')
    return f"<g><title>{_write(risk.reason)}</title>" + "".join(parts) + "</g>"


def _write_risks(risks: Sequence[RiskTerms]) -> str:
    rows = [
        [
            f"{_write(risk.name)}<br><code>{_write(risk.task)}</code>",
            f'<span class="verdict {_CLASSES[risk.verdict]}">{risk.verdict}</span>',
            f'<span class="bar">{"≤" if risk.direction == "at_most" else "≥"} '
            f"{_share(risk.bar)}</span>",
            f"{risk.evidence.failed} of {risk.evidence.clusters} "
            f"{'flagged' if risk.judge else 'failed'}, "
            f"{risk.evidence.samples} samples, {risk.evidence.errors} broke",
            f"{risk.alpha:.4g}",
            _write(risk.reason) + _write_judge(risk),
        ]
        for risk in risks
    ]
    return _write_table(["risk", "verdict", "bar", "seen", "alpha", "why"], rows)


def _write_judge(risk: RiskTerms) -> str:
    if risk.judge is None:
        return ""
    found = risk.judge.calibration
    record = (
        "no record against people's labels"
        if found is None
        else f"caught {found.caught} of {found.positives}, {found.false_alarms} false alarms in "
        f"{found.negatives}"
    )
    return f'<br><span class="quiet">judge {_write(risk.judge.name)}: {_write(record)}</span>'


def _write_subjects(release: Release) -> str:
    rows = [
        [_write(name), f"<code>{_write(sha256)}</code>"]
        for name, sha256 in sorted(release.subjects.items())
    ]
    return _write_table(["file", "sha256"], rows)


def _write_terms(release: Release) -> str:
    terms, covered = release.terms, release.terms.adaptation
    budget = "nothing may adapt" if covered.drift_budget is None else f"{covered.drift_budget:g}"
    fields = {
        "plan": f"{terms.plan_name}, written {_moment(terms.plan_created_at)}",
        "plan's sha256": terms.plan_sha256,
        "results' digest": terms.results_sha256,
        "attempt": f"{terms.attempt} of {terms.lineage}",
        "confidence": f"{terms.confidence:g} over all attempts, {terms.mode}",
        "tested": f"{_moment(terms.started_at)} to {_moment(terms.ended_at)}",
        "valid": f"{_moment(terms.signed_at)} to {_moment(terms.expires_at)}",
        "signed by": release.key_id or "not checked",
        "drift covered, nats a token": budget,
        "canary set": covered.canary_sha256 or "none",
        "software": terms.software,
    }
    rows = [[_write(name), _write(value)] for name, value in fields.items()]
    return _write_table(["", ""], rows)


def _write_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already."""
    head = "".join(f"<th>{heading}</th>" for heading in headings) if any(headings) else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _write(text: str) -> str:
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _share(share: float) -> str:
    return f"{100 * share:.4g} %"


def _moment(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
