// The topics of a fleet and what is in them (docs/events.md). Only this file knows their form.

import { network } from "./net.js";
import { readEvent } from "./model.js";

const MOST_BITS = 9; // of a bucket's name
const BEATS = 3; // a node whose status is older than so many heartbeats is silent

export const topics = {
  statuses: (root) => [`${root}/+/status`],
  manifests: (root) => [`${root}/+/table/+/manifest`],
  buckets: (root, names) => [...names].map((it) => `${root}/+/table/+/${it}`),
  alarms: (root) => [`${root}/+/event/alarm/#`],
  table: (root, node) => [`${root}/${node}/table/#`],
  events: (root, node) => [`${root}/${node}/event/#`],
};

/** A message of a topic: {node, part, target, bucket, event, data}; null: it is none of ours. */
export function read(root, topic, payload) {
  if (!topic.startsWith(`${root}/`)) return null;
  const [node, kind, target, bucket] = topic.slice(root.length + 1).split("/");
  const part = kind === "table" && bucket === "manifest" ? bucket : kind;
  if (!node || !READERS[part]) return null;
  if (!payload.length) return { node, part, target, bucket, data: null };
  try {
    const event = readEvent(JSON.parse(new TextDecoder().decode(payload)));
    return event && { node, part, target, bucket, event, data: READERS[part](event.data) };
  } catch {
    return null;
  }
}

// A broker is not to be trusted: whatever comes gets the types and the bounds that the page relies on.

const text = (value, otherwise = "") => (typeof value === "string" ? value.slice(0, 2000) : otherwise);
const number = (value, otherwise = 0) => (Number.isFinite(value) ? value : otherwise);
const object = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});
const list = (value, most) => (Array.isArray(value) ? value.slice(0, most) : []);
const counts = (value) =>
  Object.fromEntries(
    Object.entries(object(value))
      .filter((it) => Number.isFinite(it[1]))
      .slice(0, 200),
  );

function readStatus(data) {
  return {
    state: text(data.state, "unknown"),
    version: text(data.version),
    mode: text(data.mode),
    started: text(data.started),
    since: text(data.since),
    heartbeat_s: number(data.heartbeat_s, null),
    expiry_s: number(data.expiry_s, null),
    labels: Object.entries(object(data.labels))
      .slice(0, 50)
      .map(([key, value]) => `${key}=${text(value)}`),
    kernel: { ...counts(data.kernel), state: text(object(data.kernel).state) },
    targets: list(data.targets, 100)
      .map(object)
      .map((it) => ({
        name: text(it.name),
        url: text(it.url),
        state: text(it.state),
        error: text(it.error, null),
        desired: number(it.desired),
        waiting: number(it.waiting),
        rate: number(it.rate),
        remaining_s: number(it.remaining_s, null),
        proved_s: number(it.proved_s, null),
        held: number(it.held),
        holes: number(it.holes),
        complete: it.complete === true,
        phases: counts(it.phases),
        reasons: counts(it.reasons),
      })),
    alarms: list(data.alarms, 100)
      .map(object)
      .map((it) => ({ kind: text(it.kind), target: text(it.target, null), detail: text(it.detail) })),
    verdicts: counts(data.verdicts),
    guard: data.guard ? { ...counts(data.guard), dry_run: object(data.guard).dry_run === true } : null,
    broker: text(data.broker, null),
    held: list(data.held, 20)
      .map(object)
      .map((it) => ({ topic: text(it.topic), count: number(it.count) })),
    reasons: list(data.reasons, 50).map((it) => text(it)),
  };
}

function readBucket(data) {
  const rows = list(data.routes, 100_000).map(object);
  return {
    depth: number(data.depth),
    sequence: number(data.sequence),
    routes: rows
      .map((it) => ({ prefix: text(it.prefix), gateway: text(it.gateway), state: text(it.state) }))
      .filter((it) => it.prefix),
  };
}

/** `digest` tells nodes with other routes apart, whatever the states of these are. */
function readManifest(data) {
  const depth = Math.max(0, Math.min(MOST_BITS, Math.trunc(number(data.depth))));
  return {
    depth,
    routes: number(data.routes),
    digest: text(data.routes_digest),
    sequences: list(data.sequences, 2 ** depth).map((it) => number(it, Infinity)),
  };
}

const READERS = {
  __proto__: null,
  status: readStatus,
  table: readBucket,
  manifest: readManifest,
  event: (data) => data,
};

/** The age of a status when it came, in seconds: by what is left of its expiry, without any clock; null: unknown. */
export function ageOf(data, left) {
  return data.expiry_s !== null && typeof left === "number" ? Math.max(0, data.expiry_s - left) : null;
}

export const isSilent = (data, age) => data.heartbeat_s !== null && age > BEATS * data.heartbeat_s;

const CRC = Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

export function crc32(text) {
  let value = 0xffffffff;
  for (const byte of new TextEncoder().encode(text)) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/** A bucket's number: the leading bits of the hash of the prefix. */
export const bucketOf = (prefix, depth) => (depth ? crc32(prefix) >>> (32 - depth) : 0);
export const bucketName = (number, depth) => number.toString(16).padStart(Math.ceil(depth / 4), "0");
export const bucketsOf = (prefixes, depth) => new Set([...prefixes].map((it) => bucketOf(it, depth)));

/** The prefixes that cover an address, or just the prefix. */
export function networksOf(asked) {
  const lengths = asked.isAddress ? [...Array(asked.length + 1).keys()] : [asked.length];
  return new Set(lengths.map((length) => network(asked, length)));
}
