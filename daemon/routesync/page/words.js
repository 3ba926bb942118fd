// Events in words.

import { count, glyph, h } from "./dom.js";

const WORDS = {
  __proto__: null,
  "route.accepted": (it) =>
    `accepted${via(it)}${it.previous_gateway ? `, instead of ${it.previous_gateway}` : ""}`,
  "route.confirmed": (it) => `confirmed${via(it)}`,
  "route.withdrawn": (it) => `withdrawn: ${it.reason}`,
  "route.refused": (it) => `refused with ${it.status}: ${it.message}`,
  "route.ineligible": (it) => `not eligible, ${it.reason}: ${it.detail}`,
  "route.conflicting": (it) => `another writer's route is there: ${it.detail}`,
  "route.dropped": (it) => `dropped by rule ${it.rule}`,
  "route.summary": (it) =>
    `${count(sum(it.dropped))} more dropped, ${count(sum(it.ineligible))} more not eligible`,
  "sync.started": (it) => `sync started, ${count(it.waiting)} waiting`,
  "sync.completed": (it) =>
    `sync completed: ${count(it.posted)} posted, ${count(it.deleted)} deleted in ${it.duration_s} s`,
  "sync.failed": (it) => `sync failed: ${it.error}`,
  "sync.lost": (it) => `lost by the target: ${it.detail}`,
  "target.up": (it) => `answers${it.version ? `, loxilb ${it.version}` : ""}`,
  "target.down": (it) => `does not answer: ${it.error}`,
  "target.refused": (it) => `not mirrored into: ${it.detail}`,
  "alarm.raised": (it) => `alarm ${it.kind}: ${it.detail}`,
  "alarm.cleared": (it) => `alarm ${it.kind} cleared after ${Math.round(it.lasted_s)} s`,
  "kernel.resynced": (it) =>
    `kernel dumped again (${it.cause}): ${count(it.kept)} kept, ${count(it.corrected)} corrected`,
  "kernel.overrun": (it) => `the receive buffer overflowed, ${count(it.total)} times so far`,
  "kernel.drift": (it) => `${count(it.count)} routes were held wrongly and are corrected`,
  "guard.would-remove": (it) => `guard would remove it: ${it.covered_by} reaches the same`,
  "guard.removed": (it) => `removed by guard: ${it.covered_by} reaches the same`,
  "guard.returned": (it) => `back ${Math.round(it.away_s)} s after guard removed it`,
  "guard.skipped": (it) => `guard leaves it: ${it.detail}`,
  "guard.failed": (it) => `guard could not remove it: ${it.detail}`,
  "guard.verified": () => "guard: the target's table does not have it either",
  "guard.stuck": (it) => `guard: the target's table still has it: ${it.detail}`,
  "config.loaded": () => "configuration loaded",
  "config.rejected": (it) => `configuration rejected: ${(it.errors ?? []).join("; ")}`,
  "events.lost": (it) =>
    `${it.count === null ? "an unknown number of" : count(it.count)} events lost: ${it.reason}`,
  "page.lost": () => "this page lost the daemon or the broker",
  "page.back": () => "this page is connected again",
  "broker.lost": (it) => `no connection to the broker: ${it.detail}`,
  "broker.back": () => "connected to the broker again",
  "stream.lost": (it) =>
    `this page missed ${it.count === null ? "an unknown number of" : count(it.count)} events`,
};
const via = (it) => (it.gateway ? ` via ${it.gateway}` : "");
const sum = (counts) => Object.values(counts ?? {}).reduce((total, it) => total + it, 0);

const GOOD = new Set([
  "route.confirmed",
  "route.accepted",
  "target.up",
  "alarm.cleared",
  "broker.back",
  "page.back",
  "sync.completed",
  "guard.verified",
]);
const BAD = new Set([
  ...[
    "route.refused",
    "route.conflicting",
    "sync.lost",
    "sync.failed",
    "target.down",
    "target.refused",
    "alarm.raised",
  ],
  ...[
    "kernel.overrun",
    "kernel.drift",
    "config.rejected",
    "broker.lost",
    "page.lost",
    "events.lost",
    "stream.lost",
    "guard.failed",
    "guard.stuck",
  ],
]);

export const toneOf = (event) => (BAD.has(event.kind) ? "bad" : GOOD.has(event.kind) ? "good" : "off");
const SHAPE = { good: "disc", bad: "triangle", off: "dash" };

/** Groups to filter by. */
export const GROUPS = {
  routes: /^route\./,
  targets: /^(target|sync)\./,
  alarms: /^alarm\./,
  node: /^(?!route|target|sync|alarm)/,
};

/** What happened, as text. */
export function words(event) {
  const { detail, reason } = event.data;
  try {
    return WORDS[event.kind](event.data);
  } catch {
    return [event.kind.replace(".", " "), reason, detail].filter((it) => typeof it === "string").join(": ");
  }
}

/** One event in words, with its prefix unless that is plain from the place. */
export function sentence(event, plain = false) {
  const { prefix, target } = event.data;
  const tone = toneOf(event);
  return [
    glyph(`${SHAPE[tone]} ${tone}`),
    h(
      "span",
      {},
      prefix && !plain ? [h("b", { class: "mono" }, prefix), " "] : null,
      words(event),
      target ? h("small", {}, ` ${target}`) : null,
    ),
  ];
}

/** What an event does to the picture of changes: 1 comes, -1 goes, 0 neither. */
export function directionOf(kind) {
  if (kind === "route.accepted") return 1;
  return kind === "route.withdrawn" || kind === "sync.lost" ? -1 : 0;
}
