// The topics of a fleet and what is in them (docs/events.md). Only this file knows their form.

import { network } from "./net.js";
import { readEvent } from "./model.js";

const BEATS = 3; // a node whose status is older than so many heartbeats is silent

export const topics = {
  statuses: (root) => [`${root}/+/status`],
  alarms: (root) => [`${root}/+/event/alarm/#`],
  table: (root, node) => [`${root}/${node}/table/#`],
  events: (root, node) => [`${root}/${node}/event/#`],
};

/** A message of a topic: {node, part, target, bucket, event, data}; null: it is none of ours. */
export function read(root, topic, payload) {
  if (!topic.startsWith(`${root}/`)) return null;
  const [node, part, target, bucket] = topic.slice(root.length + 1).split("/");
  if (!node || !["status", "table", "event"].includes(part)) return null;
  if (!payload.length) return { node, part, target, bucket, data: null };
  try {
    const event = readEvent(JSON.parse(new TextDecoder().decode(payload)));
    return event && { node, part, target, bucket, event, data: event.data };
  } catch {
    return null;
  }
}

/** The age of a status when it came, in seconds: by what is left of its expiry, without any clock; null: unknown. */
export function ageOf(data, left) {
  return typeof data.expiry_s === "number" && typeof left === "number"
    ? Math.max(0, data.expiry_s - left)
    : null;
}

export const isSilent = (data, age) => typeof data.heartbeat_s === "number" && age > BEATS * data.heartbeat_s;

/** What a whole copy of each table of a node looks like: [{target, routes, digest, depth}]. */
export const manifestsOf = (data) => (Array.isArray(data.table) ? data.table : []);

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

function bucketOf(prefix, { depth, buckets }) {
  if (depth === undefined) return String(crc32(prefix) % buckets);
  return (crc32(prefix) >>> (32 - depth)).toString(16).padStart(Math.ceil(depth / 4), "0");
}

/**
 * Where all nodes have what covers an address, or exactly a prefix: the names of the prefixes, and the topics of their
 * buckets for each form of table that the statuses name.
 */
export function whereabouts(root, asked, statuses) {
  const forms = new Map();
  for (const status of statuses) {
    for (const it of manifestsOf(status)) forms.set(`${it.depth} ${it.buckets}`, it);
  }
  const lengths = asked.isAddress ? [...Array(asked.length + 1).keys()] : [asked.length];
  const prefixes = lengths.map((length) => network(asked, length));
  const found = new Set();
  for (const form of forms.values()) {
    for (const prefix of prefixes) found.add(`${root}/+/table/+/${bucketOf(prefix, form)}`);
  }
  return { prefixes: new Set(prefixes), topics: [...found] };
}
