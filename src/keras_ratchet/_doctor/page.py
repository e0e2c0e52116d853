"""The report as one page of HTML: it needs no network and no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from keras_ratchet._doctor import text
from keras_ratchet._doctor.outcome import Examination

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #57606a;
  --line: #d0d7de; --red: #b3261e; --green: #1a6b34; --yellow: #7d5700; --shade: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --faint: #9198a1; --line: #3d444d; --red: #ff8a80;
    --green: #6bd48b; --yellow: #e3b341; --shade: #161b22; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.faint { color: var(--faint); }
.red { color: var(--red); } .green { color: var(--green); } .yellow { color: var(--yellow); }
.verdict { font-weight: 600; border-left: 4px solid currentColor; padding: .5rem 1rem;
  background: var(--shade); border-radius: 0 6px 6px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1rem .35rem 0;
  border-bottom: 1px solid var(--line); min-width: 3rem; overflow-wrap: break-word; }
th { color: var(--faint); font-weight: 600; } th, td:first-child { white-space: nowrap; }
td:last-child { min-width: 12rem; }
pre { background: var(--shade); padding: .75rem; overflow-x: auto; font-size: .85rem; }
li { margin: .3rem 0; } ul { padding-left: 1.2rem; }
@media (max-width: 40rem) { /* a row is a paragraph, each cell a line with the name of its column */
  body { padding: .75rem; } table, tbody, tr, td { display: block; } tr { padding: .4rem 0;
    border-bottom: 1px solid var(--line); } tr:has(th) { display: none; }
  td { border: 0; padding: 0; overflow-wrap: anywhere; } td:first-child { font-weight: 600; }
  td::before { content: attr(data-name) ": "; color: var(--faint); font-weight: 400; }
}
""".strip()


def page(found: Examination) -> str:
    """Return the whole page."""
    sentence, color = text.verdict(found)
    title = escape(f"ratchet doctor: {found.command[-1] if found.command else ''}")
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        "<h1>ratchet doctor</h1>",
        f'<p class="faint">{escape(text.heading(found))}</p>',
        f'<p class="verdict {color}">{escape(sentence)}</p>',
        "<h2>Parts</h2>",
        _table("parts", text.PART_HEADERS, text.part_rows(found)),
    ]
    if found.kills:
        lines += ["<h2>Kills</h2>", _table("kills", text.KILL_HEADERS, text.kill_rows(found))]
    lines += ["<h2>Findings</h2>", "<ul>"]
    lines += [_item(said, shade) for said, shade in text.finding_lines(found)]
    lines.append("</ul>")
    for kill in found.kills:
        if kill.output:
            lines.append(f"<h2>Output after kill {kill.number}</h2>")
            lines.append(f"<pre>{escape(kill.output)}</pre>")
    lines.append(f'<p class="faint">Instants chosen with --seed {found.seed}.</p></body></html>')
    return "\n".join(lines) + "\n"


def _table(name: str, headers: Sequence[str], rows: Sequence[text.Row]) -> str:
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "\n".join(
        f'<tr class="{color or "plain"}">'
        + "".join(
            f'<td data-name="{escape(header)}">{escape(cell)}</td>'
            for header, cell in zip(headers, cells, strict=True)
        )
        + "</tr>"
        for cells, color in rows
    )
    table = f"<table><tr>{head}</tr>\n{body}\n</table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">{table}</div>'


def _item(said: str, color: str | None) -> str:
    return f'<li class="{color or "plain"}">{escape(said.strip())}</li>'
