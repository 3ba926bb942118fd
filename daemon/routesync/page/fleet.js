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
import { SHAPES } from "./model.js";
import { covers, parse } from "./net.js";
import { ageOf, isSilent, topics, whereabouts } from "./topics.js";
import { NodeView, kindOfNode } from "./view.js";

const SORT_MS = 1000; // the table of nodes is put in order so often
const AGE_MS = 5000;
const ORDER = new Intl.Collator("en", { numeric: true });
const RANK = { bad: 0, work: 1, off: 2, good: 3 };

/** One node, by its last status. */
class FleetNode {
  constructor(name) {
    this.name = name;
    this.version = 0;
  }

  take(data, age) {
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
      empty: () => (this.nodes.size ? "No node matches." : "No node has published a status yet."),
    });
    this.asked = h("input", {
      type: "search",
      id: "who-has",
      placeholder: "10.244.1.7 or 10.244.1.0/24",
      autocomplete: "off",
    });
    this.found = h("div", { role: "status" });
    this.differences = h("div");
    this.compared = h("div", { role: "status" });
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
              on: { submit: (it) => (it.preventDefault(), this.whoHas(this.asked.value)) },
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
      field("root", "Root topic", { type: "text", required: true, value: root }),
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
    this.broker?.end();
    this.form.say("");
    this.root = settings.root;
    this.broker = new Broker(settings, this);
    this.broker.subscribe(topics.statuses(this.root), (message) => this.take(message));
    this.broker.subscribe(topics.alarms(this.root), () => {});
  }

  // -- what the broker calls -------------------------------------------------------------------------------------

  connection(live, text) {
    setAttribute(this.link, "class", `connection ${live ? "good" : "bad"}`);
    const words = live ? text : `${text}; what you see is old`;
    if (this.said !== words) fill(this.link, glyph(live ? "disc" : "triangle"), words);
    this.said = words;
    if (live) {
      this.since = Date.now();
      this.form.hidden = true;
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
    if (!retained && data && !this.nodes.has(name)) this.doubt(data);
    if (data === null) {
      this.nodes.delete(name); // cleared: it has another name now, or none
      this.cellsChanged = true;
    } else {
      let node = this.nodes.get(name);
      if (!node) {
        node = new FleetNode(name);
        this.nodes.set(name, node);
        this.cellsChanged = true;
      }
      node.take(data, ageOf(data, left));
      if (this.selected === node) this.source.status();
    }
    if (!this.changed && this.nodes.size < 50) this.refresh();
    this.changed = true;
  }

  /** A node that has been there for long and whose retained status did not come: then others are missing, too. */
  doubt(data) {
    if (!(Date.parse(data.started) < this.since - 60_000)) return;
    this.warning.hidden = false;
    fill(
      this.warning,
      glyph("triangle"),
      "The broker has sent only some of the nodes: its queue is too short for so many (mosquitto: max_queued_messages 0). " +
        "Those that live appear with their next heartbeat; nodes that are silent or offline may be missing here.",
    );
  }

  judge() {
    for (const node of this.nodes.values()) node.judge();
    this.changed = true;
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
    this.view = new NodeView((...parts) => (this.source = new FleetSource(this, node, ...parts)), {
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
  }

  close() {
    this.source?.stop();
    this.view?.stop();
    fill(this.detail);
    this.selected = this.view = this.source = null;
  }

  // -- who has it, and whose table differs -----------------------------------------------------------------------

  async whoHas(text) {
    const asked = parse(text);
    if (!asked) {
      fill(this.found, h("p", { class: "bad" }, glyph("triangle"), `${text} is no address or prefix`));
      return;
    }
    fill(this.found, h("p", { class: "muted" }, "Asking …"));
    const { prefixes, topics: wanted } = whereabouts(this.root, asked);
    const rows = new Map(); // node and target to the longest that covers it
    await this.broker.gather(wanted, ({ node, part, target, data }) => {
      if (part !== "table") return;
      for (const row of data ?? []) {
        if (!prefixes.has(row.prefix)) continue;
        const key = `${node} ${target}`;
        const length = Number(row.prefix.split("/")[1]);
        if (!(rows.get(key)?.length > length)) rows.set(key, { node, target, row, length });
      }
    });
    const found = [...rows.values()].sort((a, b) => ORDER.compare(a.node, b.node));
    const groups = Map.groupBy(
      found,
      (it) => `${it.row.prefix} via ${it.row.gateway}, ${it.row.state}, at ${it.target}`,
    );
    fill(
      this.found,
      h(
        "p",
        { class: "verdict" },
        `${plural(new Set(found.map((it) => it.node)).size, "node")} of ${count(this.nodes.size)} ${found.length === 1 ? "has" : "have"} a route to ${text}`,
      ),
      [...groups].map(([what, members]) =>
        h(
          "section",
          { class: "decision" },
          h("h3", { class: "mono" }, what),
          this.names(members.map((it) => it.node)),
        ),
      ),
    );
  }

  /** Buttons of nodes, the first hundred. */
  names(names) {
    const buttons = names.slice(0, 100).map((name) =>
      h(
        "button",
        {
          type: "button",
          class: "chip",
          on: { click: () => this.nodes.has(name) && this.show(this.nodes.get(name)) },
        },
        name,
      ),
    );
    return h(
      "div",
      { class: "chips" },
      buttons,
      names.length > 100 ? `and ${count(names.length - 100)} more` : null,
    );
  }

  async diff() {
    fill(this.compared);
    fill(this.differences, h("p", { class: "muted" }, "Reading the manifests …"));
    const byTarget = new Map(); // target to digest to nodes
    await this.broker.gather(topics.manifests(this.root), ({ node, part, target, data }) => {
      if (part !== "manifest" || !data || !this.nodes.has(node)) return;
      const digests = byTarget.get(target) ?? byTarget.set(target, new Map()).get(target);
      for (const group of digests.values()) group.names.delete(node);
      const group =
        digests.get(data.digest) ??
        digests.set(data.digest, { routes: data.routes, names: new Set() }).get(data.digest);
      group.names.add(node);
    });
    const targets = [...byTarget].sort(([one], [other]) => ORDER.compare(one, other));
    fill(
      this.differences,
      targets.map(([target, digests]) => this.difference(target, digests)),
      targets.length ? null : h("p", { class: "muted" }, "No node has published a table yet."),
    );
  }

  difference(target, digests) {
    const groups = [...digests.values()]
      .map((it) => ({ routes: it.routes, names: [...it.names].sort(ORDER.compare) }))
      .filter((it) => it.names.length)
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
          {
            type: "button",
            on: {
              click: () => this.compare(target, it.names[0], most.names[0]),
            },
          },
          `Compare ${it.names[0]} with ${most.names[0]}`,
        ),
      );
    }
    if (others.length > 20)
      lines.push(h("p", { class: "muted" }, `and ${count(others.length - 20)} more groups`));
    return h("section", { class: "decision" }, h("h3", {}, target), lines);
  }

  async compare(target, one, other) {
    const tables = { [one]: new Map(), [other]: new Map() };
    fill(this.compared, h("p", { class: "muted" }, "Reading both tables …"));
    const wanted = [one, other].flatMap((name) => topics.table(this.root, name));
    await this.broker.gather(wanted, ({ node, part, target: of, data }) => {
      if (part !== "table" || of !== target || !tables[node]) return;
      for (const row of data ?? []) tables[node].set(row.prefix, `via ${row.gateway}, ${row.state}`);
    });
    const [mine, theirs] = [tables[one], tables[other]];
    const prefixes = [...new Set([...mine.keys(), ...theirs.keys()])].filter(
      (it) => mine.get(it) !== theirs.get(it),
    );
    const lines = prefixes
      .slice(0, 200)
      .map((it) =>
        h(
          "li",
          {},
          h("b", { class: "mono" }, it),
          h("span", {}, ` ${one}: ${mine.get(it) ?? "none"} · ${other}: ${theirs.get(it) ?? "none"}`),
        ),
      );
    fill(
      this.compared,
      h(
        "h3",
        {},
        `${target}: ${one} and ${other} differ in ${plural(prefixes.length, "prefix", "prefixes")}`,
      ),
      h("ol", { class: "events", tabindex: "0", "aria-label": "Differences" }, lines),
      prefixes.length > 200 ? h("p", { class: "muted" }, `and ${count(prefixes.length - 200)} more`) : null,
    );
  }
}

/** Why a node is not online, and since when. */
function whyOf({ kind, data }) {
  const since = Date.parse(data.since);
  const reason = data.reasons[0] ?? "";
  return kind === "good" || Number.isNaN(since) ? reason : `since ${moment(since)}${reason && `: ${reason}`}`;
}

/** One node of the fleet, from its retained table and its events. */
class FleetSource {
  constructor(fleet, node, routes, history, sink) {
    Object.assign(this, { fleet, node, routes, history, sink });
    this.buckets = new Map(); // target and bucket to the prefixes in it
  }

  start() {
    const { broker, root } = this.fleet;
    const wanted = [...topics.table(root, this.node.name), ...topics.events(root, this.node.name)];
    this.stop = broker.subscribe(wanted, (message) => message.node === this.node.name && this.take(message));
    this.routes.loaded = true;
    this.status();
  }

  stop() {}

  status() {
    const status = this.node.data;
    const rules = Object.entries(status.verdicts).map(([rule, routes]) => ({
      rule,
      routes,
      action: "",
    }));
    this.sink.status({
      status: { ...status, node: this.node.name, state: this.node.state },
      rules,
      targets: status.targets,
    });
  }

  take({ part, target, bucket, event, data }) {
    if (part === "table" && bucket !== undefined) this.replace(target, bucket, data ?? []);
    else if (part === "event" && event) {
      this.history.add(event);
      this.sink.event(event);
      this.routes.fold(event);
    } else return;
    this.sink.changed();
  }

  /**
   * A bucket replaces what was in it. A route that another bucket has meanwhile stays: the number of buckets may
   * change, and then the topics of the former ones are cleared.
   */
  replace(target, bucket, rows) {
    const key = `${target} ${bucket}`;
    const before = this.buckets.get(key) ?? new Set();
    this.buckets.set(key, new Set(rows.map((it) => it.prefix)));
    for (const { prefix, gateway, state } of rows) {
      before.delete(prefix);
      const row = this.routes.get(prefix);
      const known = row.targets[target];
      if (known?.phase === state && known.gateway === gateway) known.bucket = key;
      else {
        const fresh = { phase: state, gateway, since: null, code: "", detail: "", bucket: key };
        row.targets = { ...row.targets, [target]: fresh };
        row.changed();
      }
    }
    for (const prefix of before) {
      const row = this.routes.get(prefix);
      if (![key, undefined].includes(row.targets[target]?.bucket)) continue;
      delete row.targets[target];
      row.changed();
      if (!Object.keys(row.targets).length) this.routes.delete(prefix);
    }
  }

  /** Only what the retained table says: the rules are the node's own matter. */
  explain(text) {
    const asked = parse(text);
    const rows = asked ? this.routes.all.filter((it) => covers(it.at, asked)).toReversed() : [];
    const parts = rows.flatMap((row) =>
      Object.entries(row.targets).map(([target, it]) =>
        h(
          "p",
          { class: "verdict" },
          h("b", {}, target),
          ` ${row.prefix}${it.gateway ? ` via ${it.gateway}` : ""}: ${it.phase}`,
        ),
      ),
    );
    if (!parts.length) parts.push(h("p", {}, "No target of this node has a route to it from routesync."));
    parts.push(
      h(
        "p",
        { class: "muted" },
        `On the node, routesync explain ${text} also shows the kernel's routes and the rules.`,
      ),
    );
    return Promise.resolve({ parts });
  }
}
