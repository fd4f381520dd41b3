// The page around its views: which one is shown, the key, the state of the server.

import { getJson, key } from "./api.js";
import { setText, span } from "./dom.js";
import { chatView } from "./chat.js";
import { liveView } from "./live.js";
import { requestsView } from "./requests.js";
import { tuneView } from "./tune.js";

const STATUS_S = 2;
const MAKERS = { chat: chatView, live: liveView, requests: requestsView, tune: tuneView };
const THEMES = ["light dark", "light", "dark"];
const $ = (id) => document.getElementById(id);

// Runs `task` now and then every so many seconds, but not while nobody can see the page. Returns what ends it.
function repeat(seconds, task) {
  let timer;
  let running = false;
  let over = false;
  async function turn() {
    clearTimeout(timer);
    if (over || running) return;
    running = true;
    if (!document.hidden) await task();
    running = false;
    if (!over) timer = setTimeout(turn, 1000 * seconds);
  }
  const seen = () => document.hidden || turn();
  document.addEventListener("visibilitychange", seen);
  turn();
  return () => {
    over = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
  };
}

// What views are given.
const app = {
  status: null,
  watchers: new Set(),
  // Like api.getJson, but a missing key is asked for. Throws Refused all the same.
  async get(path) {
    try {
      return await getJson(path);
    } catch (error) {
      app.refused(error);
      throw error;
    }
  },
  refused(error) {
    if (error.status === 401) askForKey(key.get() ? "The server does not take this key." : "This server asks for one.");
  },
  repeat,
};

// -- the state of the server ------------------------------------------------------------------------------------------

let answeredAt = Date.now();

async function look() {
  try {
    app.status = await app.get("debug/status");
    answeredAt = Date.now();
    tell(app.status.ready ? "ready" : "bad", app.status.ready ? "ready" : "not ready");
    banner(app.status.ready ? "" : `No request would succeed now: ${app.status.reason}`);
    setText(
      $("version"),
      `Tandem ${app.status.version} · ${app.status.models.join(", ")} · up ${span(app.status.up_s)}`,
    );
    for (const watcher of app.watchers) watcher(app.status);
  } catch (error) {
    if (error.status === 401) {
      tell("waiting", "key needed");
      banner("");
    } else {
      tell("bad", error.status ? `error ${error.status}` : "away");
      const since = span((Date.now() - answeredAt) / 1000);
      banner(`No news from the server for ${since}: ${error.message}. What is shown may be old; it is asked again.`);
    }
  }
}

function tell(kind, text) {
  $("state").dataset.kind = kind;
  setText($("state"), text);
}

function banner(text) {
  $("banner").hidden = !text;
  setText($("banner"), text);
}

// -- the key ----------------------------------------------------------------------------------------------------------

let declined = false;

function askForKey(why) {
  if ($("ask-key").open || (declined && why)) return;
  setText($("ask-key-why"), why);
  $("key-field").value = "";
  $("key-forget").hidden = !key.get();
  $("ask-key").returnValue = "";
  $("ask-key").showModal();
}

function useKey(value) {
  key.set(value);
  declined = false;
  look();
  shown?.shown?.(here().path);
}

$("key").addEventListener("click", () => askForKey(""));
$("key-cancel").addEventListener("click", () => $("ask-key").close());
$("key-forget").addEventListener("click", () => $("ask-key").close("forget"));
$("ask-key").addEventListener("close", () => {
  const value = $("key-field").value.trim();
  if ($("ask-key").returnValue === "forget") useKey("");
  else if ($("ask-key").returnValue === "use" && value) useKey(value);
  else declined = true; // who says no is not asked again
});

// -- light and dark ---------------------------------------------------------------------------------------------------

function showTheme() {
  const theme = localStorage.getItem("tandem-theme") || THEMES[0];
  document.documentElement.style.colorScheme = theme;
  setText($("theme"), { light: "☀ Light", dark: "☾ Dark" }[theme] || "◐ Auto");
  $("theme").title = "Colours: as the system has them, light, or dark";
}

$("theme").addEventListener("click", () => {
  const now = THEMES.indexOf(localStorage.getItem("tandem-theme") || THEMES[0]);
  localStorage.setItem("tandem-theme", THEMES[(now + 1) % THEMES.length]);
  showTheme();
});

// -- views ------------------------------------------------------------------------------------------------------------

const views = {};
let shown = null;

// #view/path
function here() {
  const [name, ...path] = location.hash.slice(1).split("/").map(decodeURIComponent);
  return MAKERS[name] ? { name, path } : { name: "chat", path: [] };
}

function go() {
  const { name, path } = here();
  const view = (views[name] ||= MAKERS[name](app));
  if (view !== shown) {
    shown?.hidden?.();
    $("view").replaceChildren(view.element);
    shown = view;
    document.title = `${name[0].toUpperCase()}${name.slice(1)} · Tandem console`;
    for (const tab of document.querySelectorAll(".tabs a")) {
      if (tab.hash === `#${name}`) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
  }
  view.shown?.(path);
}

showTheme();
addEventListener("hashchange", go);
go();
repeat(STATUS_S, look);
