"""Grafana's panels and dashboards as values, and the JSON that Grafana reads. Knows no metric."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

Json = dict[str, object]

PROMETHEUS: Json = {"type": "prometheus", "uid": "tandem-prometheus"}
JAEGER: Json = {"type": "jaeger", "uid": "tandem-jaeger"}
ALL_COLUMNS = 24
ROW_HEIGHT = 1


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression; `legend` may name labels in double braces."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What all panels have. `text` is shown behind the title's ⓘ."""

    title: str
    text: str = ""
    width: int = 12
    height: int = 8

    def json(self) -> Json:
        return {"title": self.title, **({"description": self.text} if self.text else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured(Panel):
    queries: Sequence[Query]
    unit: str = "short"

    def targets(self, **options: object) -> list[Json]:
        return [
            {
                "refId": chr(ord("A") + number),
                "datasource": PROMETHEUS,
                "editorMode": "code",
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                **options,
            }
            for number, query in enumerate(self.queries)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines(_Measured):
    """Over time; `stacked` for parts of a whole."""

    stacked: bool = False
    share: bool = False
    """Whether 1 is the most there can be."""
    exemplars: bool = False
    """Whether single values are drawn as well, each with the way to its trace; of a histogram."""

    def json(self) -> Json:
        custom: Json = {"drawStyle": "line", "lineWidth": 1, "showPoints": "never", "fillOpacity": 0}
        if self.stacked:
            custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
        limits: Json = {"min": 0, "max": 1} if self.share else {"min": 0}
        return {
            **Panel.json(self),
            "type": "timeseries",
            "datasource": PROMETHEUS,
            "fieldConfig": {"defaults": {"unit": self.unit, **limits, "custom": custom}, "overrides": []},
            "options": {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
            "targets": self.targets(range=True, **({"exemplar": True} if self.exemplars else {})),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(_Measured):
    """As of now. `steps` are colours from a value on; the first is of everything below."""

    steps: Sequence[tuple[float | None, str]] = ((None, "text"),)
    width: int = 4
    height: int = 4

    def json(self) -> Json:
        steps = [{"color": colour, "value": value} for value, colour in self.steps]
        return {
            **Panel.json(self),
            "type": "stat",
            "datasource": PROMETHEUS,
            "fieldConfig": {
                "defaults": {"unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps}},
                "overrides": [],
            },
            "options": {
                "colorMode": "value",
                "graphMode": "area",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            },
            "targets": self.targets(range=True),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap(_Measured):
    """A histogram over time, by its buckets."""

    def json(self) -> Json:
        return {
            **Panel.json(self),
            "type": "heatmap",
            "datasource": PROMETHEUS,
            "options": {
                "calculate": False,
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                "yAxis": {"unit": self.unit},
                "tooltip": {"mode": "single", "yHistogram": True},
            },
            "targets": self.targets(range=True, format="heatmap"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Words(Panel):
    """Markdown."""

    content: str

    def json(self) -> Json:
        return {**Panel.json(self), "type": "text", "options": {"mode": "markdown", "content": self.content}}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTraces(Panel):
    """What Jaeger finds; who clicks on a trace's id sees it on the dashboard `target`."""

    service: str
    target: str
    operation: str = ""
    tags: str = ""
    min_duration: str = ""

    def json(self) -> Json:
        wanted = {"operation": self.operation, "tags": self.tags, "minDuration": self.min_duration}
        link = {"title": "Show it", "url": f"/d/{self.target}?var-trace=${{__value.raw}}"}
        override = {
            "matcher": {"id": "byName", "options": "traceID"},
            "properties": [{"id": "links", "value": [link]}],
        }
        return {
            **Panel.json(self),
            "type": "table",
            "datasource": JAEGER,
            "fieldConfig": {"defaults": {}, "overrides": [override]},
            "options": {"sortBy": [{"displayName": "Duration", "desc": True}]},
            "targets": [
                {
                    "refId": "A",
                    "datasource": JAEGER,
                    "queryType": "search",
                    "service": self.service,
                    **{name: value for name, value in wanted.items() if value},
                    "limit": 20,
                }
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTrace(Panel):
    """The trace whose id the variable `variable` holds."""

    variable: str
    width: int = ALL_COLUMNS
    height: int = 18

    def json(self) -> Json:
        target = {"refId": "A", "datasource": JAEGER, "query": f"${self.variable}"}
        return {**Panel.json(self), "type": "traces", "datasource": JAEGER, "targets": [target]}


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable that is one of some values."""

    name: str
    label: str
    values: Sequence[str]
    chosen: str

    def json(self) -> Json:
        options = [{"text": value, "value": value, "selected": value == self.chosen} for value in self.values]
        return {
            "type": "custom",
            "name": self.name,
            "label": self.label,
            "query": ",".join(self.values),
            "options": options,
            "current": {"text": self.chosen, "value": self.chosen},
        }


@dataclass(frozen=True, slots=True)
class Typed:
    """A variable that is typed in."""

    name: str
    label: str
    value: str = ""

    def json(self) -> Json:
        current = {"text": self.value, "value": self.value}
        return {
            "type": "textbox",
            "name": self.name,
            "label": self.label,
            "query": self.value,
            "current": current,
            "options": [{**current, "selected": True}],
        }


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, from left to right, as many in a line as fit."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    rows: Sequence[Row]
    variables: Sequence[Choice | Typed] = field(default=())

    def json(self) -> Json:
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["tandem"],
            "timezone": "browser",
            "schemaVersion": 39,
            "refresh": "5s",
            "time": {"from": "now-15m", "to": "now"},
            "graphTooltip": 1,
            "links": [
                {"type": "dashboards", "title": "Tandem", "tags": ["tandem"], "asDropdown": False, "keepTime": True}
            ],
            "templating": {"list": [variable.json() for variable in self.variables]},
            "panels": self._panels(),
        }

    def _panels(self) -> list[Json]:
        made: list[Json] = []
        ids = itertools.count(1)
        y = 0
        for row in self.rows:
            position = _position(0, y, ALL_COLUMNS, ROW_HEIGHT)
            heading: Json = {"type": "row", "title": row.title, "collapsed": False, "panels": []}
            made.append({"id": next(ids), **heading, "gridPos": position})
            x, y, height = 0, y + ROW_HEIGHT, 0
            for panel in row.panels:
                if x + panel.width > ALL_COLUMNS:
                    x, y, height = 0, y + height, 0
                made.append({"id": next(ids), **panel.json(), "gridPos": _position(x, y, panel.width, panel.height)})
                x, height = x + panel.width, max(height, panel.height)
            y += height
        return made


def _position(x: int, y: int, width: int, height: int) -> Json:
    return {"x": x, "y": y, "w": width, "h": height}
