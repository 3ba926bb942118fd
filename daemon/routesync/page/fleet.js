// A fleet: the nodes as cells and as a table, who has a prefix, whose table differs, and one node from near.

import { Broker } from "./broker.js";
import {
  count,
  duration,
  eachFrame,
  fill,
  glyph,
  h,
  keyed,
  moment,
  plural,
  say,
  setAttribute,
} from "./dom.js";
import { Grid } from "./grid.js";
import { MemberSource } from "./member.js";
import { NOWHERE, SHAPES } from "./model.js";
import { compare, parse } from "./net.js";
import { readManifests, readTwo, whoHas } from "./tables.js";
import { ageOf, isSilent, topics } from "./topics.js";
import { NodeView, kindOfNode } from "./view.js";
import { toneOf, words } from "./words.js";

const SORT_MS = 1000; // the table of nodes is put in order so often
const AGE_MS = 5000;
const NEWS = 60; // lines of what happened that are kept
const ORDER = new Intl.Collator("en", { numeric: true });
const RANK = { bad: 0, work: 1, off: 2, good: 3 };

/** One node, by its last status. */
class FleetNode {
  constructor(name) {
    this.name = name;
    this.version = 0;
  }

  /** `age` in seconds, null if it is unknown. */
  take(data, age) {
    // A last will says only that the node is gone.
    if (data.state === "offline" && this.data) {
      data.labels = this.data.labels;
      data.version ||= this.data.version;
    }
    this.data = data;
    this.born = Date.now() - 1000 * (age ?? 0);
    this.dated = age !== null;
    this.judge();
    this.version += 1;
  }

  /** Is it silent by now? */
  judge() {
    const silent = this.data.state !== "offline" && isSilent(this.data, this.age);
    const state = silent ? "silent" : String(this.data.state);
    if (state !== this.state) this.version += 1;
    this.state = state;
    this.kind = kindOfNode(state);
  }

  get age() {
    return (Date.now() - this.born) / 1000;
  }

  sum(number) {
    return this.data.targets.reduce((total, it) => total + number(it), 0);
  }

  /** All that a word is searched in. */
  get text() {
    const { version, labels, reasons } = this.data;
    return [this.name, this.state, version, ...labels, ...reasons].join(" ").toLowerCase();
  }
}

export class FleetView {
  constructor({ url, root }) {
    this.nodes = new Map();
    this.text = "";
    this.title = h("h1", {}, "Fleet");
    this.link = h("span", { class: "connection", role: "status" });
    this.form = this.makeForm(url, root);
    this.change = h(
      "button",
      { type: "button", hidden: true, on: { click: () => (this.form.hidden = !this.form.hidden) } },
      "Broker …",
    );
    this.warning = h("p", { class: "bad", role: "alert", hidden: true });
    this.summary = h("div", { class: "chips" });
    this.cells = h("div", {
      class: "cells",
      "aria-hidden": "true",
      on: { click: (it) => it.target.node && this.show(it.target.node) },
    });
    this.input = h("input", {
      type: "search",
      id: "nodes",
      placeholder: "name, label, version, reason, state …",
      autocomplete: "off",
      on: { input: () => this.narrow(this.input.value) },
    });
    this.grid = new Grid({
      label: "Nodes",
      columns: ["State", "Node", "Last word", "Version", "Mirrored", "Alarms", "Labels", "Why"].map(
        (title) => ({ title, class: title.toLowerCase().replace(" ", "-") }),
      ),
      show: (node) => this.cellsOf(node),
      open: (node) => this.show(node),
      rowHeight: () => (matchMedia("(max-width: 46rem)").matches ? 58 : 30),
      empty: () =>
        this.nodes.size
          ? "No node matches."
          : `No node has published a status below ${this.broker?.root} yet, or this user may not read it.`,
    });
    this.asked = h("input", {
      type: "search",
      id: "who-has",
      placeholder: "10.244.1.7 or 10.244.1.0/24",
      autocomplete: "off",
    });
    this.found = h("div", { role: "status" });
    this.differences = h("div", { role: "status" });
    this.compared = h("div", { role: "status" });
    this.news = []; // what was seen to happen, the last first
    this.newsList = h("ol", {
      class: "events",
      tabindex: "0",
      "aria-label": "What happened, the last first",
    });
    this.detail = h("div", { class: "detail" });
    this.body = h("div", { hidden: true }, this.panels(), this.detail);
    this.element = h("main", {}, this.form, this.body);
    this.refresh = eachFrame(() => this.draw());
    setInterval(() => this.changed && this.refresh(), SORT_MS);
    setInterval(() => this.judge(), AGE_MS);
  }

  panels() {
    return [
      h(
        "section",
        { class: "panel fleet", "aria-labelledby": "nodes-title" },
        h("div", { class: "bar-line" }, h("h2", { id: "nodes-title" }, "Nodes"), this.summary),
        this.warning,
        this.cells,
        h(
          "div",
          { class: "search" },
          h("label", { for: "nodes", class: "hidden" }, "Search the nodes"),
          this.input,
        ),
        this.grid.element,
      ),
      h(
        "div",
        { class: "columns" },
        h(
          "section",
          { class: "panel", "aria-labelledby": "who-title" },
          h("div", { class: "bar-line" }, h("h2", { id: "who-title" }, "Who has it?")),
          h(
            "form",
            {
              class: "search",
              on: { submit: (it) => (it.preventDefault(), this.whoHas(this.asked.value.trim())) },
            },
            h("label", { for: "who-has", class: "hidden" }, "Address or prefix"),
            this.asked,
            h("button", { class: "primary" }, "Ask all nodes"),
          ),
          this.found,
        ),
        h(
          "section",
          { class: "panel", "aria-labelledby": "diff-title" },
          h(
            "div",
            { class: "bar-line" },
            h("h2", { id: "diff-title" }, "Whose table differs?"),
            h("button", { type: "button", on: { click: () => this.diff() } }, "Compare all"),
          ),
          this.differences,
          this.compared,
        ),
      ),
      h(
        "section",
        { class: "panel news", "aria-labelledby": "news-title" },
        h("div", { class: "bar-line" }, h("h2", { id: "news-title" }, "Since this page was opened")),
        this.newsList,
      ),
    ];
  }

  makeForm(url, root) {
    const field = (name, label, props) =>
      h("label", {}, label, h("input", { name, autocomplete: "off", ...props }));
    const trouble = h("p", { class: "bad", role: "alert" });
    const form = h(
      "form",
      { class: "panel connect", "aria-label": "Broker" },
      field("url", "Broker (ws:// or wss://)", {
        type: "url",
        required: true,
        value: url,
        pattern: "wss?://.*",
      }),
      field("root", "Root topic", { type: "text", required: true, value: root, pattern: "[^+#]+" }),
      field("username", "User", { type: "text" }),
      field("password", "Password", { type: "password" }),
      h("button", { class: "primary" }, "Connect"),
      h("p", { class: "hint" }, "User and password stay in the memory of this page and are gone with it."),
      trouble,
    );
    form.say = (text) => say(trouble, text);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.connect(Object.fromEntries(new FormData(form)));
    });
    return form;
  }

  connect(settings) {
    settings.root = settings.root.replace(/\/+$/, "");
    this.broker?.end();
    this.form.say("");
    this.close();
    this.nodes.clear();
    this.cellsChanged = true;
    try {
      this.broker = new Broker(settings, this);
    } catch (error) {
      this.form.say(`${settings.url}: ${error.message}`); // no URL of WebSockets, or the browser refuses it
      return;
    }
    this.broker.subscribe(topics.statuses(this.broker.root), (message) => this.take(message));
    this.broker.subscribe(topics.alarms(this.broker.root), (message) => this.alarm(message));
  }

  // -- what the broker calls -------------------------------------------------------------------------------------

  connection(live, text) {
    setAttribute(this.link, "class", `connection ${live ? "good" : "bad"}`);
    const words = live || this.body.hidden ? text : `${text}; what you see is old`;
    if (this.said !== words) fill(this.link, glyph(live ? "disc" : "triangle"), words);
    this.said = words;
    if (live) {
      this.since = Date.now();
      this.form.hidden = true;
      this.change.hidden = false;
      this.body.hidden = false;
      this.refresh();
    } else if (!this.form.hidden) this.form.say(text);
    setAttribute(this.body, "class", live ? null : "stale");
    this.view?.connection(live, live ? "live" : text);
  }

  refused(text) {
    this.form.hidden = false;
    this.form.say(text);
  }

  denied(topic) {
    this.form.hidden = false;
    this.form.say(`the broker denies this user to read ${topic}`);
  }

  take({ node: name, part, data, left, retained }) {
    if (part !== "status") return;
    let node = this.nodes.get(name);
    if (!retained && data && !node) this.doubt(data);
    if (data === null) {
      if (node) this.note(name, "off", "gone: its status was cleared");
      this.nodes.delete(name);
      this.cellsChanged = true;
    } else {
      const before = node?.state;
      if (!node) {
        node = new FleetNode(name);
        this.nodes.set(name, node);
        this.cellsChanged = true;
      }
      node.take(data, ageOf(data, left) ?? (retained ? null : 0));
      this.noteState(node, before);
      if (this.selected === node) this.source.status();
    }
    if (!this.changed && this.nodes.size < 50) this.refresh();
    this.changed = true;
  }

  /** An alarm of a node, as it is raised or cleared. */
  alarm({ node, part, event, retained }) {
    if (part === "event" && event?.kind.startsWith("alarm.") && !retained)
      this.note(node, toneOf(event), words(event));
  }

  noteState(node, before) {
    const { state, kind, data } = node;
    const tone = kind === "good" || kind === "bad" ? kind : "off";
    if (before && before !== state)
      this.note(
        node.name,
        tone,
        `${state}, was ${before}${data.reasons.length ? `: ${data.reasons[0]}` : ""}`,
      );
  }

  note(node, tone, text) {
    this.noted = (this.noted ?? 0) + 1;
    this.news.unshift({ id: this.noted, time: Date.now(), node, tone, text });
    this.news.length = Math.min(this.news.length, NEWS);
    this.changed = true;
  }

  /** A node that has been there for long and whose retained status did not come: then others are missing, too. */
  doubt(data) {
    if (!(Date.parse(data.started) < this.since - 60_000)) return;
    this.warning.hidden = false;
    fill(
      this.warning,
      glyph("triangle"),
      "The broker has sent only some of the nodes: its queue is too short for so many (mosquitto: max_queued_messages 0), " +
        "or it lost its memory. Those that live appear with their next heartbeat; others may be missing here.",
    );
  }

  judge() {
    for (const node of this.nodes.values()) {
      const before = node.state;
      node.judge();
      this.noteState(node, before);
    }
    this.changed = true;
    if (this.selected) this.source.status();
    this.grid.showAgain(); // the ages
  }

  // -- the nodes -------------------------------------------------------------------------------------------------

  narrow(text) {
    this.text = text.toLowerCase();
    this.input.value = text;
    this.refresh();
  }

  draw() {
    this.changed = false;
    const all = [...this.nodes.values()];
    const words = this.text.split(/\s+/).filter(Boolean);
    const shown = words.length ? all.filter((it) => words.every((word) => it.text.includes(word))) : all;
    this.grid.set(shown.toSorted((a, b) => RANK[a.kind] - RANK[b.kind] || ORDER.compare(a.name, b.name)));
    const states = new Map();
    for (const it of all) states.set(it.state, (states.get(it.state) ?? 0) + 1);
    keyed(
      this.summary,
      [...states].sort(),
      ([state]) => state,
      () => this.stateChip(),
    );
    this.drawCells(all);
    keyed(
      this.newsList,
      this.news,
      (it) => it.id,
      (it) =>
        h(
          "li",
          {},
          h("time", {}, moment(it.time)),
          glyph(`${SHAPES[it.tone]} ${it.tone}`),
          this.nodeButton(it.node),
          h("span", {}, it.text),
        ),
    );
    if (!this.news.length)
      fill(this.newsList, h("li", { class: "muted" }, "No node changed its state, and no alarm came."));
    const troubled = all.filter((it) => it.kind === "bad").length;
    document.title = `${troubled ? `(${troubled}) ` : ""}Fleet · routesync`;
  }

  stateChip() {
    const mark = glyph("ring");
    const text = h("span");
    const chip = h("button", { type: "button", class: "chip" }, mark, text);
    chip.update = ([state, number]) => {
      setAttribute(mark, "class", `glyph ${SHAPES[kindOfNode(state)]} ${kindOfNode(state)}`);
      say(text, `${count(number)} ${state}`);
      chip.onclick = () => this.narrow(state);
    };
    return chip;
  }

  /** Each node has its place by its name, so that a cell that changes is seen where it was. */
  drawCells(all) {
    if (this.cellsChanged) {
      this.cellsChanged = false;
      const sorted = all.toSorted((a, b) => ORDER.compare(a.name, b.name));
      keyed(
        this.cells,
        sorted,
        (it) => it.name,
        () => h("i"),
      );
      [...this.cells.children].forEach((cell, at) => (cell.node = sorted[at]));
    }
    for (const cell of this.cells.children) {
      const { node } = cell;
      if (cell.version === node.version) continue;
      cell.version = node.version;
      setAttribute(cell, "class", node.kind);
      setAttribute(cell, "title", `${node.name}: ${node.state}`);
    }
  }

  cellsOf(node) {
    const { data } = node;
    const desired = node.sum((it) => it.desired);
    const mirrored = node.sum((it) =>
      ["accepted", "confirmed", "present"].reduce((sum, phase) => sum + (it.phases[phase] ?? 0), 0),
    );
    const alarms = data.alarms.map((it) => it.kind);
    return [
      h("span", { class: `phase ${node.kind}` }, glyph(SHAPES[node.kind]), node.state),
      node.name,
      node.dated ? duration(node.age) : "",
      data.version,
      desired || mirrored ? `${count(mirrored)} of ${count(desired)}` : "",
      alarms.length ? h("span", { class: "bad" }, glyph("triangle"), alarms.join(", ")) : "",
      data.labels.join(" "),
      whyOf(node),
    ];
  }

  // -- one node --------------------------------------------------------------------------------------------------

  show(node) {
    this.close();
    this.selected = node;
    this.view = new NodeView((...parts) => (this.source = new MemberSource(this.broker, node, ...parts)), {
      heading: "h2",
      kernel: false,
    });
    const close = h("button", { type: "button", on: { click: () => this.close() } }, "Close");
    fill(
      this.detail,
      h("div", { class: "bar-line detail-head" }, this.view.heading, close),
      this.view.element,
    );
    this.view.start();
    this.view.connection(true, "live");
    this.detail.scrollIntoView({ block: "start" });
    this.view.title.focus({ preventScroll: true });
  }

  close() {
    this.source?.stop();
    this.view?.stop();
    const within = this.detail.contains(document.activeElement);
    fill(this.detail);
    if (within) this.grid.scroller.focus();
    this.selected = this.view = this.source = null;
  }

  // -- who has it, and whose table differs -----------------------------------------------------------------------

  /** Show in `place` what `read` says, unless it was asked again meanwhile; what goes wrong is shown there, too. */
  async answer(place, read) {
    const asked = (place.asked = {});
    const progress = h("p", { class: "muted" }, "Reading …");
    fill(place, progress);
    let content;
    try {
      content = await read((text) => say(progress, text));
    } catch (error) {
      content = h("p", { class: "bad" }, glyph("triangle"), error.message);
    }
    if (place.asked === asked) fill(place, content);
  }

  whoHas(text) {
    return this.answer(this.found, async (progress) => {
      const asked = parse(text);
      if (!asked) throw new Error(text ? `${text} is no address or prefix` : "Type an address or a prefix.");
      const { rows, without, unknown } = await whoHas(this.broker, this.nodes, asked, (come, wanted) =>
        progress(`Reading … ${count(come)} of ${count(wanted)} parts of tables`),
      );
      const groups = Map.groupBy(
        rows.sort((a, b) => ORDER.compare(a.node, b.node)),
        (it) => `${it.prefix} via ${it.gateway}, ${it.state}, at ${it.target}`,
      );
      const nodes = new Set(rows.map((it) => it.node)).size;
      return [
        h(
          "p",
          { class: "verdict" },
          `${plural(nodes, "node")} of ${count(this.nodes.size)} ${nodes === 1 ? "has" : "have"} a route to ${text}`,
        ),
        [...groups].map(([what, members]) =>
          this.group(
            h("span", { class: "mono" }, what),
            members.map((it) => it.node),
          ),
        ),
        without.length > 0 && this.group(`${plural(without.length, "node")} without one`, without),
        this.notRead(unknown),
      ];
    });
  }

  group(title, names) {
    return h("section", { class: "decision" }, h("h3", {}, title), this.names(names));
  }

  /** Nodes whose table is not known whole. */
  notRead(names) {
    const title = `${plural(names.length, "node")} whose table could not be read whole: try again in a minute`;
    return names.length > 0 && this.group([glyph("triangle bad"), title], names);
  }

  /** Buttons of nodes, the first hundred. */
  names(names) {
    const sorted = names.toSorted(ORDER.compare);
    const buttons = sorted.slice(0, 100).map((name) => this.nodeButton(name));
    return h(
      "div",
      { class: "chips" },
      buttons,
      names.length > 100 ? `and ${count(names.length - 100)} more` : null,
    );
  }

  nodeButton(name) {
    const open = () => this.nodes.has(name) && this.show(this.nodes.get(name));
    return h("button", { type: "button", class: "chip", on: { click: open } }, name);
  }

  diff() {
    fill(this.compared);
    return this.answer(this.differences, async () => {
      const { tables, missing } = await readManifests(this.broker, this.nodes);
      const targets = [...Map.groupBy(tables.values(), (it) => it.target)];
      return [
        targets
          .sort(([one], [other]) => ORDER.compare(one, other))
          .map(([target, them]) => this.difference(target, them)),
        !targets.length &&
          !missing.length &&
          h("p", { class: "muted" }, "No node has published a table yet."),
        this.notRead(missing),
      ];
    });
  }

  difference(target, tables) {
    const groups = [...Map.groupBy(tables, (it) => it.digest).values()]
      .map((them) => ({ routes: them[0].routes, names: them.map((it) => it.node).sort(ORDER.compare) }))
      .sort((one, other) => other.names.length - one.names.length);
    const [most, ...others] = groups;
    const lines = [
      h(
        "p",
        {},
        glyph("disc good"),
        `${plural(most.names.length, "node")} with the same ${plural(most.routes, "route")}`,
      ),
    ];
    for (const it of others.slice(0, 20)) {
      lines.push(
        h(
          "p",
          {},
          glyph("triangle bad"),
          `${plural(it.names.length, "node")} with another table of ${plural(it.routes, "route")} `,
        ),
        this.names(it.names),
        h(
          "button",
          { type: "button", on: { click: () => this.compare(target, it.names[0], most.names[0]) } },
          `Compare ${it.names[0]} with ${most.names[0]}`,
        ),
      );
    }
    if (others.length > 20)
      lines.push(h("p", { class: "muted" }, `and ${count(others.length - 20)} more groups`));
    return h("section", { class: "decision" }, h("h3", {}, target), lines);
  }

  /** The prefixes whose next hops differ; what state a route is in makes no difference. */
  compare(target, one, other) {
    return this.answer(this.compared, async () => {
      const { tables, unknown } = await readTwo(this.broker, target, [one, other]);
      const [mine, theirs] = [tables.get(one), tables.get(other)];
      const prefixes = [...new Set([...mine.keys(), ...theirs.keys()])]
        .filter((it) => mine.get(it)?.gateway !== theirs.get(it)?.gateway)
        .map((text) => ({ text, at: parse(text) ?? NOWHERE }))
        .sort((a, b) => compare(a.at, b.at));
      const show = (row) => (row ? `via ${row.gateway}, ${row.state}` : "none");
      const lines = prefixes
        .slice(0, 200)
        .map(({ text }) =>
          h(
            "li",
            {},
            h("b", { class: "mono" }, text),
            h("span", {}, ` ${one}: ${show(mine.get(text))} · ${other}: ${show(theirs.get(text))}`),
          ),
        );
      const differ = `${target}: ${one} and ${other} differ in ${plural(prefixes.length, "prefix", "prefixes")}`;
      return [
        h("h3", {}, differ),
        this.notRead(unknown),
        h("ol", { class: "events", tabindex: "0", "aria-label": "Differences" }, lines),
        prefixes.length > 200 ? h("p", { class: "muted" }, `and ${count(prefixes.length - 200)} more`) : null,
      ];
    });
  }
}

/** Why a node is not online, and since when. */
function whyOf({ kind, data }) {
  const since = Date.parse(data.since);
  const reason = data.reasons[0] ?? "";
  return kind === "good" || Number.isNaN(since) ? reason : `since ${moment(since)}${reason && `: ${reason}`}`;
}
