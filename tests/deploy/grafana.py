"""Dashboards as TypeScript, whose compiler holds them against Grafana's own schema: that comes as types from npm.

Every setting must be one that Grafana knows, with a value that it takes; what it has a default for may be left out.
"""

import json
from typing import Any

CONFIG = {
    "compilerOptions": {
        "strict": True,
        "noEmit": True,
        "skipLibCheck": True,
        "target": "es2022",
        "module": "esnext",
        "moduleResolution": "bundler",
        "types": [],
        "paths": {"panels/*": ["./node_modules/@grafana/schema/dist/types/raw/composable/*"]},
    },
    "files": ["dashboards.ts"],
}
HEAD = """\
import type * as schema from "@grafana/schema";
import type { Options as Heatmap } from "panels/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type { Options as Stat } from "panels/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { Options as Table } from "panels/table/panelcfg/x/TablePanelCfg_types.gen";
import type { Options as Text } from "panels/text/panelcfg/x/TextPanelCfg_types.gen";
import type {
  FieldConfig, Options as Timeseries,
} from "panels/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// What an enum is in JSON; and everything may be left out but what says which panel it is.
type Json<T> = T extends string ? `${T}`
  : T extends number | boolean | null | undefined ? T
  : T extends (infer Each)[] ? Json<Each>[]
  : { [Key in keyof T]?: Json<T[Key]> };
type Source = { type: string; uid: string };
type Prometheus = {
  refId: string; datasource: Source; editorMode: "code"; expr: string; legendFormat: string; range?: boolean;
  instant?: boolean; exemplar?: boolean; format?: "time_series" | "table" | "heatmap";
};
type Jaeger = {
  refId: string; datasource: Source; queryType?: "search" | "upload" | "dependencyGraph"; service?: string;
  operation?: string; query?: string; tags?: string; minDuration?: string; maxDuration?: string; limit?: number;
};
type Known = { timeseries: Timeseries; stat: Stat; heatmap: Heatmap; table: Table; text: Text; traces: {} };
type Custom = { timeseries: FieldConfig };
type Fields<Type> = Omit<Json<schema.FieldConfig>, "custom"> & (
  Type extends keyof Custom ? { custom?: Json<Custom[Type]> } : {}
);
type Of<Type extends keyof Known> = Omit<Json<schema.Panel>, "type" | "options" | "fieldConfig" | "targets"> & {
  type: Type; title: string; gridPos: schema.GridPos; options?: Json<Known[Type]>; targets?: (Prometheus | Jaeger)[];
  fieldConfig?: { defaults: Fields<Type>; overrides: Json<schema.FieldConfigSource["overrides"]> };
};
type Panel = { [Type in keyof Known]: Of<Type> }[keyof Known];
type Row = Json<schema.RowPanel> & { type: "row" };
type Dashboard = Omit<Json<schema.Dashboard>, "panels"> & { uid: string; title: string; panels: (Panel | Row)[] };
"""


def typescript(dashboards: list[dict[str, Any]]) -> str:
    made = [
        f"export const d{number}: Dashboard = {json.dumps(each, indent=1)};" for number, each in enumerate(dashboards)
    ]
    return "\n".join([HEAD, *made])
