// All of one node: its state, the picture, the table, the timeline, and the explanations.

import { duration, fill, glyph, h, keyed, say, setAttribute } from "./dom.js";
import { ExplainView } from "./explain.js";
import { Flow } from "./flow.js";
import { History, Routes, SHAPES } from "./model.js";
import { RoutesView } from "./routes.js";
import { Timeline } from "./timeline.js";
import { directionOf } from "./words.js";

const WINDOW_S = 5; // rates are those of so many seconds
const STATES = {
  __proto__: null,
  online: "good",
  degraded: "bad",
  stopping: "work",
  offline: "bad",
  silent: "bad",
};
export const kindOfNode = (state) => STATES[state] ?? "off";

export class NodeView {
  /**
   * `makeSource(routes, history, sink)` returns the data source: start(), explain(text). `heading` is h1 or h2;
   * `kernel`: the source knows the kernel's routes and the rules.
   */
  constructor(makeSource, { heading = "h1", kernel = true } = {}) {
    this.routes = new Routes();
    this.history = new History();
    this.passed = []; // [second, changes, events]
    this.source = makeSource(this.routes, this.history, this);
    this.explain = new ExplainView(
      (text) => this.source.explain(text),
      (prefix) => this.history.of(prefix),
    );
    this.table = new RoutesView((text) => this.explain.open(text), kernel);
    this.flow = new Flow((search) => this.table.narrow(search));
    this.timeline = new Timeline(this.history);
    this.title = h(heading, { tabindex: "-1" });
    this.state = h("span", { class: "badge" });
    this.about = h("span", { class: "muted" });
    this.link = h("span", { class: "connection", role: "status" });
    this.reasons = h("ul", { class: "reasons", "aria-label": "Why it is degraded" });
    this.heading = h("div", { class: "heading" }, this.title, this.state, this.about);
    this.element = h(
      "div",
      { class: "node" },
      this.reasons,
      this.flow.element,
      h("div", { class: "columns" }, this.table.element, this.timeline.element),
      this.explain.element,
    );
  }

  start() {
    this.table.show(this.routes);
    const hash = decodeHash();
    if (hash) this.table.narrow(hash);
    this.source.start();
  }

  stop() {
    this.timeline.stop();
  }

  // -- what the source calls -----------------------------------------------------------------------------------

  status(response) {
    const { status } = response;
    if (this.title.localName === "h1") document.title = `${status.node} · routesync`;
    say(this.title, status.node);
    this.badge(status.state);
    const lives = status.started && !["offline", "silent"].includes(status.state);
    const up = lives ? `up ${duration((Date.now() - Date.parse(status.started)) / 1000)}` : "";
    say(this.about, [status.mode && `mode ${status.mode}`, status.version, up].filter(Boolean).join(" · "));
    const reasons = status.reasons ?? [];
    this.reasons.hidden = !reasons.length;
    keyed(
      this.reasons,
      reasons.slice(0, 8),
      (it) => it,
      (it) => h("li", {}, glyph("triangle bad"), h("span", {}, it)),
    );
    this.flow.update(response, this.rates());
    const reached = status.broker === "connected";
    if (this.reached !== undefined && this.reached !== reached && status.broker) {
      this.mark(reached ? "broker.back" : "broker.lost", status.broker);
    }
    this.reached = reached;
  }

  badge(state) {
    const kind = kindOfNode(state);
    setAttribute(this.state, "class", `badge ${kind}`);
    if (this.shown !== state) fill(this.state, glyph(SHAPES[kind]), state);
    this.shown = state;
  }

  /** The table lacks changes that the status counts; they are being read. */
  behind(isBehind) {
    this.table.setBehind(isBehind);
  }

  /** The prefixes that the table is narrowed to, unless these are more. */
  watched(most) {
    const { items } = this.table.grid;
    return items.length <= most ? items.map((it) => it.prefix) : [];
  }

  changed() {
    this.table.refresh();
  }

  event(event) {
    const second = Math.floor(event.time / 1000);
    let last = this.passed.at(-1);
    if (last?.[0] !== second) this.passed.push((last = [second, 0, 0]));
    if (directionOf(event.kind)) last[1] += 1;
    last[2] += 1;
    if (this.passed.length > 2 * WINDOW_S) this.passed.splice(0, this.passed.length - WINDOW_S);
    this.timeline.add(event);
  }

  connection(live, text) {
    setAttribute(this.element, "class", live ? "node" : "node stale");
    setAttribute(this.link, "class", `connection ${live ? "good" : "bad"}`);
    if (this.wasLive !== live || this.linkText !== text) {
      fill(this.link, glyph(live ? "disc" : "triangle"), live ? text : `${text}; what you see is old`);
    }
    if (this.wasLive !== undefined && this.wasLive !== live)
      this.mark(live ? "page.back" : "page.lost", text);
    this.wasLive = live;
    this.linkText = text;
  }

  /** What this page sees for itself, and no event says. */
  mark(kind, detail) {
    const event = { kind, id: `${kind}-${Date.now()}`, time: Date.now(), sequence: null, data: { detail } };
    this.history.add(event);
    this.timeline.add(event);
  }

  rates() {
    const since = Date.now() / 1000 - WINDOW_S;
    const recent = this.passed.filter(([second]) => second >= since);
    const rate = (at) => recent.reduce((sum, it) => sum + it[at], 0) / WINDOW_S;
    return { changes: rate(1), events: rate(2) };
  }
}

function decodeHash() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}
