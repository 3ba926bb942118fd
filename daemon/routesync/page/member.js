// One node of a fleet as a data source: its retained table and its events, as a broker has them.

import { h } from "./dom.js";
import { covers, parse } from "./net.js";
import { bucketName, bucketOf, topics } from "./topics.js";

export class MemberSource {
  /** `node` has name, state, data (its status), age and whether that is known (dated); `sink` is as for a NodeSource. */
  constructor(broker, node, routes, history, sink) {
    Object.assign(this, { broker, node, routes, history, sink });
    this.buckets = new Map(); // target and bucket to {epoch, depth, sequence, prefixes}
    this.manifests = new Map(); // target to its manifest
  }

  start() {
    const { broker } = this;
    const { name } = this.node;
    const wanted = [...topics.table(broker.root, name), ...topics.events(broker.root, name)];
    const unsubscribe = broker.subscribe(wanted, (message) => message.node === name && this.take(message));
    const patience = setTimeout(() => this.load(), 2000); // without a target it has no manifest
    this.stop = () => {
      clearTimeout(patience);
      unsubscribe();
    };
    this.status();
  }

  stop() {}

  load() {
    this.routes.loaded = true;
    this.sink.changed();
  }

  status() {
    const status = this.node.data;
    const rules = Object.entries(status.verdicts).map(([rule, routes]) => ({
      rule,
      routes,
      action: "",
    }));
    const { age, dated } = this.node;
    const targets = status.targets.map((it) => ({
      ...it,
      proof: dated ? undefined : "as of its last status",
      proved_s: it.proved_s === null ? null : it.proved_s + age,
    }));
    this.sink.status({
      status: { ...status, node: this.node.name, state: this.node.state },
      rules,
      targets,
    });
  }

  take({ part, target, bucket, event, data }) {
    if (part === "table" && bucket !== undefined) this.replace(target, bucket, event?.epoch, data);
    else if (part === "manifest") {
      if (data) this.manifests.set(target, data);
      else this.manifests.delete(target);
    } else if (part === "event" && event) {
      this.history.add(event);
      this.sink.event(event);
      if (this.isNews(event)) this.routes.fold(event);
    } else return;
    if (part !== "event") this.sink.behind(!this.isWhole());
    this.sink.changed();
  }

  /** Whether each table is here as its manifest says. Before that, what is missing may still come. */
  isWhole() {
    for (const [target, { depth, sequences }] of this.manifests) {
      for (let number = 0; number < 2 ** depth; number += 1) {
        const bucket = this.buckets.get(`${target}/${bucketName(number, depth)}`);
        if (!(bucket?.depth === depth && bucket.sequence >= sequences[number])) return false;
      }
    }
    if (this.manifests.size) this.routes.loaded = true;
    return true;
  }

  /** An event that its bucket has already comes late, and changes nothing. */
  isNews({ sequence, epoch, data: { prefix, target } }) {
    const manifest = this.manifests.get(target);
    if (!manifest || typeof prefix !== "string") return true;
    const { depth } = manifest;
    const bucket = this.buckets.get(`${target}/${bucketName(bucketOf(prefix, depth), depth)}`);
    return !(bucket?.epoch === epoch && sequence <= bucket.sequence);
  }

  /**
   * A bucket replaces what was in it. A route that another bucket has meanwhile stays: the number of buckets may
   * change, and then the topics of the former ones are cleared.
   */
  replace(target, bucket, epoch, data) {
    const key = `${target}/${bucket}`;
    const before = this.buckets.get(key)?.prefixes ?? new Set();
    const rows = data?.routes ?? [];
    if (data) this.buckets.set(key, { ...data, epoch, prefixes: new Set(rows.map((it) => it.prefix)) });
    else this.buckets.delete(key);
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
    return Promise.resolve({ parts, prefixes: rows });
  }
}
