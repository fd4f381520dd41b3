"""The OpenAPI document as a page to read, which asks for nothing from elsewhere."""

import msgspec

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #223; }
code, .path { font-family: ui-monospace, monospace; font-size: 0.9em; }
h2 { border-top: 1px solid #ccd; padding-top: 1rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: 0.2rem 0.6rem 0.2rem 0; border-bottom: 1px solid #eef; }
details { margin: 0.4rem 0; }
.verb { display: inline-block; min-width: 3.5rem; font-weight: 600; color: #06589c; }
.quiet { color: #667; }
@media (prefers-color-scheme: dark) { body { background: #15171c; color: #dde; } .verb { color: #7cbcf5; } }
"""

_SCRIPT = """
const api = JSON.parse(document.getElementById("api").textContent);
const make = (tag, text, ...children) => {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
};
const nameOf = ref => ref.split("/").pop();
const link = name => { const a = make("a", name); a.href = "#" + name; return a; };

// A schema in one line: links to named schemas, the rest in words.
function inline(schema) {
  const out = make("span");
  if (schema.$ref) out.append(link(nameOf(schema.$ref)));
  else if (schema.anyOf)
    schema.anyOf.filter(s => s.type !== "null").forEach((s, i) => out.append(i ? " or " : "", inline(s)));
  else if (schema.enum) out.append(schema.enum.filter(v => v !== null).map(v => JSON.stringify(v)).join(" | "));
  else if (schema.type === "array") out.append("list of ", schema.items ? inline(schema.items) : "anything");
  else if (schema.type === "object" && schema.additionalProperties instanceof Object)
    out.append("map to ", inline(schema.additionalProperties));
  else out.append(schema.type || "anything");
  return out;
}
function notes(schema) {
  const words = [];
  const walk = s => {
    if (s.description) words.push(s.description);
    if ("minimum" in s) words.push("At least " + s.minimum + ".");
    if ("exclusiveMinimum" in s) words.push("Above " + s.exclusiveMinimum + ".");
    if ("maximum" in s) words.push("At most " + s.maximum + ".");
    if ("maxItems" in s) words.push("At most " + s.maxItems + " items.");
    if ("minItems" in s) words.push("At least " + s.minItems + " items.");
    (s.anyOf || []).forEach(walk);
  };
  walk(schema);
  return words.join(" ");
}
function table(schema) {
  const rows = Object.entries(schema.properties || {}).map(([name, field]) => {
    const required = (schema.required || []).includes(name) ? " *" : "";
    const title = make("td", "", make("code", name), required);
    return make("tr", "", title, make("td", "", inline(field)), make("td", notes(field)));
  });
  return make("table", "", ...rows);
}
function content(what, media) {
  const line = make("div", what + ": ");
  Object.entries(media || {}).forEach(([type, m], i) => {
    const kind = make("span", " (" + type + ")");
    kind.className = "quiet";
    const data = (m.schema.properties || {}).data;  // of an event
    line.append(i ? ", " : "", inline(data && data.contentSchema || m.schema), kind);
  });
  return line;
}
function operation(path, verb, op) {
  const method = make("span", verb.toUpperCase());
  method.className = "verb";
  const title = make("summary", "", method, make("code", path), " " + op.summary);
  const box = make("details", "", title);
  if (op.description) box.append(make("p", op.description));
  for (const p of op.parameters || [])
    box.append(make("div", p.in + " " + p.name + ": " + (p.description || p.schema.type)));
  if (op.requestBody) box.append(content("Request", op.requestBody.content));
  for (const [status, answer] of Object.entries(op.responses))
    box.append(content(status + " " + answer.description, answer.content));
  return box;
}
const page = document.getElementById("page");
page.append(make("h1", api.info.title + " " + api.info.version), make("p", api.info.description));
for (const [path, verbs] of Object.entries(api.paths))
  for (const [verb, op] of Object.entries(verbs)) page.append(operation(path, verb, op));
for (const [name, schema] of Object.entries(api.components.schemas)) {
  const heading = make("h2", name);
  heading.id = name;
  page.append(heading, make("p", schema.description || ""), table(schema));
}
"""


def docs_page(document: dict[str, object]) -> str:
    """`document` as a page; it is inside the page, so that reading it needs no second request."""
    embedded = msgspec.json.encode(document).decode().replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tandem API</title><style>{_STYLE}</style>
<main id="page"></main>
<script type="application/json" id="api">{embedded}</script>
<script>{_SCRIPT}</script></html>
"""
