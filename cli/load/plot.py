"""A result as one HTML page with SVG inside: table, distributions, timeline. It needs nothing else to be seen. Pure."""

from html import escape

from cli.load.figures import distributions, gaps_over_time, phase_distributions, requests_over_time
from cli.load.interference import InterferenceResult
from cli.load.overview import Overview, overview
from cli.load.run import Result

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2024; --soft: #5c656e; --grid: #e4e7ea;
  --one: #2f6fb5; --two: #d97b1f; --wait: #b9c0c7; --bad: #c0322b; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e6e9ec; --soft: #9aa4ad; --grid: #2b3035;
  --one: #6aa9ee; --two: #f0a04b; --wait: #565e66; --bad: #f0736b; } }
body { background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; max-width: 1080px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; font-weight: normal; }
thead th, .words, .note, figcaption { color: var(--soft); } td.number, th.number { text-align: right; }
tbody th { white-space: nowrap; } .bad-text { color: var(--bad); overflow-wrap: anywhere; }
p { margin: .2rem 0; } figure { margin: 0; } .pair { display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg text.tick, svg text.label, svg text.mark { fill: var(--soft); } path { fill: none; }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); } .mark-line { stroke: var(--soft); stroke-dasharray: 3 3; }
path.one { stroke: var(--one); stroke-width: 1.8; } path.two { stroke: var(--two); stroke-width: 1.8; }
path.dash { stroke-width: 1; stroke-dasharray: 3 3; } path.long { stroke: var(--two); }
path.spike { stroke: var(--one); stroke-width: 1.1; }
rect.one { fill: var(--one); } rect.two { fill: var(--two); } rect.wait { fill: var(--wait); }
rect.bad { fill: var(--bad); } rect.long { fill: var(--two); opacity: .22; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .35em 0 .9em; border-radius: 2px; }
.key.one { background: var(--one); } .key.two { background: var(--two); } .key.wait { background: var(--wait); }
.key:first-child { margin-left: 0; } .key.bad { background: var(--bad); }
"""


def page(result: Result | InterferenceResult) -> str:
    view = overview(result)
    if isinstance(result, InterferenceResult):
        figures = [
            ("Gaps between the tokens of each stream", gaps_over_time(result)),
            ("Distributions", phase_distributions(result)),
        ]
    else:
        figures = [
            ("Distributions", distributions(result.records)),
            ("Requests over time", requests_over_time(result.records)),
        ]
    sections = "".join(f"<h2>{escape(title)}</h2>{figure}" for title, figure in figures)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(view.title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{escape(view.title)}</h1>{_tables(view)}{_remarks(view)}{sections}</body></html>\n"
    )


def _tables(view: Overview) -> str:
    facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in view.facts)
    head = "".join(f'<th class="number">{escape(column)}</th>' for column in view.table.columns)
    rows = "".join(
        f'<tr><th>{escape(name)} <span class="words">{escape(words)}</span></th>'
        + "".join(f'<td class="number">{escape(value)}</td>' for value in values)
        + "</tr>"
        for name, words, values in view.table.rows
    )
    return (
        f"<table><tbody>{facts}</tbody></table>"
        f"<table><thead><tr><th>{escape(view.table.corner)}</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _remarks(view: Overview) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in view.notes)
    return notes + "".join(f'<p class="bad-text">{escape(line)}</p>' for line in view.failures)
