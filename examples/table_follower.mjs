#!/usr/bin/env node
// Keep a correct copy of what a node has mirrored into its loxilb targets: docs/events.md, for mqtt.js.
//
//     npm install mqtt
//     node table_follower.mjs mqtt://BROKER NODE
//
// Once a second it prints the copy as one line of JSON.
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import mqtt from "mqtt";

const ROOT = "routesync/v1", FIRST_S = 10, MOST_S = 300, DEPTHS = [6, 7, 8, 9];
const STATES = { // what an event makes of its route; null: it is gone
  "io.routesync.route.accepted.v1": "accepted", "io.routesync.route.confirmed.v1": "confirmed",
  "io.routesync.route.withdrawn.v1": null, "io.routesync.route.refused.v1": null,
  "io.routesync.route.conflicting.v1": null, "io.routesync.sync.lost.v1": null,
};
const [url, node] = process.argv.slice(2);
const targets = new Map(); // name to { manifest, epoch, buckets: "depth/number" to a bucket and the events since then }
let state = "unknown";

function apply(topic, payload) {
  const [kind, name, part] = topic.slice(ROOT.length + 1).split("/").slice(1);
  const event = payload.length ? JSON.parse(payload) : null; // an empty one clears the topic
  if (kind === "status") state = event?.data.state ?? "unknown";
  else if (kind === "table" && event) applyTable(name, part, event);
  else if (kind === "table" && part === "manifest") targets.delete(name);
  else if (event && event.type in STATES) applyEvent(event);
}
function applyTable(name, part, { data, epoch }) {
  if (!targets.has(name)) targets.set(name, { buckets: new Map() });
  const target = targets.get(name);
  if (part === "manifest") return Object.assign(target, { manifest: data, epoch });
  const at = `${data.depth}/${parseInt(data.bucket, 16)}`, before = target.buckets.get(at);
  const routes = new Map(data.routes.map((row) => [row.prefix, [row.gateway, row.state]]));
  const later = new Map([...(before?.epoch === epoch ? before.later : [])].filter(([, [it]]) => it > data.sequence));
  target.buckets.set(at, { epoch, sequence: data.sequence, digest: digestOf(routes), routes, later });
}
function applyEvent({ type, data, epoch, sequence }) {
  for (const depth of DEPTHS) {
    const bucket = targets.get(data.target)?.buckets.get(`${depth}/${crc32(data.prefix) >>> (32 - depth)}`);
    if (bucket?.epoch !== epoch) continue; // without its bucket it is of no use: the bucket comes, and has it
    if (Number(sequence) > Math.max(bucket.sequence, bucket.later.get(data.prefix)?.[0] ?? 0))
      bucket.later.set(data.prefix, [Number(sequence), STATES[type] && [data.gateway ?? "", STATES[type]]]);
  }
}
function digestOf(routes) {
  let digest = 0n;
  for (const [prefix, [gateway, state]] of routes)
    digest ^= createHash("sha256").update(`${prefix} ${gateway} ${state}`).digest().readBigUInt64BE();
  return digest.toString(16).padStart(16, "0");
}
function tableOf({ manifest, epoch, buckets }) {
  const routes = {};
  for (const [at, bucket] of buckets) {
    if (manifest && !at.startsWith(`${manifest.depth}/`)) continue;
    Object.assign(routes, Object.fromEntries(bucket.routes));
    for (const [prefix, [, route]] of bucket.later) route ? (routes[prefix] = route) : delete routes[prefix];
  }
  const whole = !!manifest?.sequences.every((sequence, number) => {
    const bucket = buckets.get(`${manifest.depth}/${number}`);
    return bucket?.epoch === epoch && bucket.sequence === sequence && bucket.digest === manifest.digests[number];
  });
  return { whole, routes };
}
const copy = () => Object.fromEntries([...targets].map(([name, target]) => [name, tableOf(target)]));

const properties = { receiveMaximum: 65535 }; // else the broker queues what is retained, and its queue is bounded
const client = mqtt.connect(url, { protocolVersion: 5, reconnectPeriod: 1000, resubscribe: false, properties });
const subscribe = () => client.connected && client.subscribe(`${ROOT}/${node}/#`, { qos: 1 });
client.on("connect", subscribe).on("message", apply).on("error", (error) => console.error(error.message));
(function mend(waitS) { // subscribe again when the copy does not become whole: then what is retained comes once more
  const whole = Object.values(copy()).every((table) => table.whole);
  if (!whole) subscribe();
  setTimeout(mend, waitS * 1000, whole ? FIRST_S : Math.min(waitS * 2, MOST_S));
})(FIRST_S);
setInterval(() => console.log(JSON.stringify({ state, targets: copy() })), 1000);
