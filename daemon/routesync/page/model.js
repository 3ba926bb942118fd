// What the page knows of one node: phases and their meaning, the routes, the last events.

import { compare, covers, parse } from "./net.js";

// What is looked up by a text from a peer has no prototype: "constructor" and the like are no keys then.

/** Each phase: whether it is good, at work, bad or aside; the mark; what it means. */
export const PHASES = {
  __proto__: null,
  confirmed: ["good", "disc", "the target's table or kernel showed it"],
  accepted: ["good", "half", "the target accepted it"],
  present: ["good", "diamond", "an equal route that is not provably owned by routesync"],
  pending: ["work", "ring", "waits to be sent"],
  withdrawing: ["work", "ring", "waits to be removed"],
  unjudged: ["work", "ring", "an inventory will show whose route is there"],
  refused: ["bad", "triangle", "the target refused it; it is tried again"],
  conflicting: ["bad", "triangle", "another writer's route is there"],
  contended: ["bad", "triangle", "lost again and again"],
  "not-forwarded": ["bad", "triangle", "the target's kernel has it, its table does not"],
  "over-capacity": ["bad", "triangle", "the target has no room for it"],
  "left-behind": ["bad", "triangle", "owned, not desired, and nothing proves a removal safe"],
  ineligible: ["off", "dash", "it is not sent to this target"],
  none: ["off", "dash", "nothing is there, and nothing is wanted"],
};
export const kindOf = (phase) => PHASES[phase]?.[0] ?? "work";
export const shapeOf = (phase) => PHASES[phase]?.[1] ?? "ring";
const RANK = { bad: 3, work: 2, off: 1, good: 0 };
export const rankOf = (phase) => RANK[kindOf(phase)];

/** Whether all is well with a target, it is at work, or in trouble. */
export function kindOfTarget(target) {
  if (["synced", "guarded"].includes(target.state)) return target.complete === false ? "bad" : "good";
  return ["syncing", "connecting", "starting", "paused"].includes(target.state) ? "work" : "bad";
}
export const SHAPES = { good: "disc", work: "ring", bad: "triangle", off: "dash" };

/** Where a prefix that is none is put: behind all others. */
export const NOWHERE = { family: 9, bits: 0n, length: 0 };

/** One prefix. `version` changes with each change, so that a shown row knows when it is old. */
class Row {
  constructor(prefix) {
    this.prefix = prefix;
    this.at = parse(prefix) ?? NOWHERE;
    this.version = 0;
    this.route = null; // the elected candidate, in short
    this.candidates = 0;
    this.targets = {};
  }

  changed() {
    this.version += 1;
    this.words = null;
  }

  /** The state to look at first. */
  get worst() {
    const states = Object.values(this.targets);
    return states.reduce(
      (worst, it) => (rankOf(it.phase) > rankOf(worst.phase) ? it : worst),
      states[0] ?? null,
    );
  }

  /** All that a free word is searched in. */
  get text() {
    if (this.words === null || this.words === undefined) {
      const { route } = this;
      const states = Object.values(this.targets).map(
        (it) => `${it.phase} ${it.code} ${it.gateway ?? ""} ${it.detail}`,
      );
      const kernel = route ? `${route.way} ${route.protocol} ${route.rule}` : "";
      this.words = `${this.prefix} ${kernel} ${states.join(" ")}`.toLowerCase();
    }
    return this.words;
  }
}

/** How a route of the kernel goes, in the words of ip(8). */
export function wayOf(route) {
  const hops = (route.hops ?? []).map((hop) =>
    [hop.gateway && `via ${hop.gateway}`, hop.interface && `dev ${hop.interface}`, ...(hop.flags ?? [])]
      .filter(Boolean)
      .join(" "),
  );
  const type = route.type && route.type !== "unicast" ? `${route.type} ` : "";
  return type + (hops.length > 1 ? `${hops[0]} and ${hops.length - 1} more` : (hops[0] ?? ""));
}

export class Routes {
  constructor() {
    this.rows = new Map();
    this.sorted = [];
    this.dirty = false;
    this.loaded = false;
  }

  /** All rows, in order. */
  get all() {
    if (this.dirty) {
      this.sorted = [...this.rows.values()].sort((a, b) => compare(a.at, b.at));
      this.dirty = false;
    }
    return this.sorted;
  }

  get(prefix) {
    let row = this.rows.get(prefix);
    if (!row) {
      row = new Row(prefix);
      this.rows.set(prefix, row);
      this.dirty = true;
    }
    return row;
  }

  delete(prefix) {
    this.dirty = this.rows.delete(prefix) || this.dirty;
  }

  /** Take the whole table: of rows that stay the same, the objects stay. */
  load(list) {
    const before = this.rows;
    this.rows = new Map();
    this.dirty = true;
    for (const given of list) {
      const row = before.get(given.prefix);
      if (row) this.rows.set(row.prefix, row);
      this.put(given);
    }
    this.loaded = true;
  }

  /** Take one row of /v1/routes. */
  put(given) {
    const row = this.get(given.prefix);
    const [best] = given.candidates;
    row.route = best
      ? {
          way: wayOf(best),
          protocol: best.protocol,
          metric: best.metric,
          rule: best.rule,
          table: best.table,
        }
      : null;
    row.candidates = given.candidates.length;
    row.targets = Object.fromEntries(
      given.targets.map((it) => [
        it.target,
        {
          phase: it.phase,
          since: it.since ? Date.parse(it.since) : null,
          gateway: it.desired ?? it.owned,
          code: it.code ?? "",
          detail: it.detail ?? "",
          degraded: it.degraded,
        },
      ]),
    );
    row.changed();
  }

  /** What an event changes in a row, at once; the daemon's own row follows. Returns the prefix that changed. */
  fold(event) {
    const { prefix, target } = event.data;
    const change = CHANGES[event.kind];
    if (!prefix || !target || !change) return null;
    const row = this.get(prefix);
    row.targets = {
      ...row.targets,
      [target]: { code: "", detail: "", gateway: null, ...change(event.data), since: event.time },
    };
    row.changed();
    return prefix;
  }

  /** How many rows are in each phase at each target: to be compared with what the status counts. */
  phases() {
    const found = {};
    for (const row of this.rows.values()) {
      for (const [target, { phase }] of Object.entries(row.targets)) {
        const counts = (found[target] ??= {});
        counts[phase] = (counts[phase] ?? 0) + 1;
      }
    }
    return found;
  }
}

const CHANGES = {
  __proto__: null,
  "route.accepted": (it) => ({ phase: "accepted", gateway: it.gateway, degraded: it.degraded }),
  "route.confirmed": (it) => ({ phase: "confirmed", gateway: it.gateway }),
  "route.withdrawn": (it) => ({
    phase: it.reason === "left-behind" ? "left-behind" : "none",
    code: it.reason,
  }),
  "route.refused": (it) => ({ phase: "refused", gateway: it.gateway, detail: it.message }),
  "route.ineligible": (it) => ({ phase: "ineligible", code: it.reason, detail: it.detail }),
  "route.conflicting": (it) => ({ phase: "conflicting", gateway: it.gateway, detail: it.detail }),
  "sync.lost": (it) => ({ phase: "pending", detail: it.detail }),
};

/** Read a CloudEvent of ours; null: it is none. */
export function readEvent(message) {
  const kind = /^io\.routesync\.([a-z.-]+)\.v\d+$/.exec(message?.type ?? "")?.[1];
  const time = Date.parse(message?.time);
  if (!kind || typeof message.data !== "object" || message.data === null || Number.isNaN(time)) return null;
  return {
    kind,
    id: String(message.id),
    time,
    sequence: message.sequence === undefined ? null : Number(message.sequence),
    epoch: message.epoch,
    subject: message.subject ?? "",
    data: message.data,
  };
}

/** The last events, bounded. */
export class History {
  constructor(limit = 5000) {
    this.limit = limit;
    this.events = [];
  }

  add(event) {
    this.events.push(event);
    if (this.events.length > this.limit * 1.2) this.events.splice(0, this.events.length - this.limit);
  }

  of(prefix) {
    return this.events.filter((it) => it.data.prefix === prefix).slice(-100);
  }
}

// -- search ----------------------------------------------------------------------------------------------------

const TOKEN = /(\w+):("[^"]*"|\S+)|"([^"]*)"|(\S+)/g;

/** A search as a function of rows. Words and `key:value` pairs must all match; those of a target at one target. */
export function parseSearch(text) {
  const found = { words: [], row: [], state: [], network: null };
  for (const [, key, value, quoted, word] of text.toLowerCase().matchAll(TOKEN)) {
    const wanted = value?.replaceAll('"', "");
    if (ROW_KEYS[key]) found.row.push((row) => ROW_KEYS[key](row, wanted));
    else if (STATE_KEYS[key]) found.state.push((state, target) => STATE_KEYS[key](state, wanted, target));
    else {
      const free = quoted ?? word ?? `${key}:${wanted}`;
      const network = /[.:]/.test(free) ? parse(free) : null;
      if (network) found.network = network;
      else found.words.push(free);
    }
  }
  found.matches = (row) =>
    (!found.network || touches(found.network, row.at)) &&
    found.row.every((test) => test(row)) &&
    (!found.state.length ||
      Object.entries(row.targets).some(([name, state]) => found.state.every((test) => test(state, name)))) &&
    found.words.every((word) => row.text.includes(word));
  return found;
}

/** An address finds what covers it; a prefix also what lies in it. */
const touches = (network, at) => covers(at, network) || (!network.isAddress && covers(network, at));

const ROW_KEYS = {
  __proto__: null,
  rule: (row, value) => row.route?.rule.toLowerCase() === value,
  protocol: (row, value) => row.route?.protocol.toLowerCase() === value,
  family: (row, value) => `ipv${row.at.family}` === value,
};
const STATE_KEYS = {
  __proto__: null,
  phase: (state, value) => state.phase === value,
  reason: (state, value) => state.code === value,
  target: (_, value, target) => target.toLowerCase() === value,
  is: (state, value) =>
    ({ trouble: "bad", waiting: "work", mirrored: "good" })[value] === kindOf(state.phase),
};

export const token = (key, value) => `${key}:${/\s/.test(value) ? `"${value}"` : value}`;
