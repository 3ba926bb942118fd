// Questions to the retained tables of a fleet. A manifest says which buckets a table has, and how new they are at least:
// so it is known of each table whether it was read whole, and what was not is named.

import { bucketName, bucketsOf, networksOf, topics } from "./topics.js";

/** A table by its node and target; no level of a topic has a slash. */
const keyOf = ({ node, target }) => `${node}/${target}`;

/**
 * The tables of these nodes, by their manifests: {node, target, depth, routes, digest, sequences} each; and the nodes
 * of which one is missing though their status names its target.
 */
export async function readManifests(broker, nodes) {
  const found = new Map();
  await broker.gather(topics.manifests(broker.root), ({ node, part, target, data }) => {
    if (part !== "manifest" || !nodes.has(node)) return;
    if (data) found.set(keyOf({ node, target }), { node, target, ...data });
    else found.delete(keyOf({ node, target }));
  });
  const missing = [...nodes.values()]
    .filter(({ name, data }) => data.targets.some((it) => !found.has(keyOf({ node: name, target: it.name }))))
    .map((it) => it.name);
  return { tables: found, missing };
}

/** Which buckets of a table have not come, or only older than its manifest says. */
class Copy {
  constructor(manifest, numbers) {
    this.manifest = manifest;
    this.open = new Set(numbers);
  }

  /** Whether the bucket is one of this table's. */
  take(bucket, { depth, sequence }) {
    const { manifest } = this;
    const number = parseInt(bucket, 16);
    if (depth !== manifest.depth || bucketName(number, depth) !== bucket) return false;
    if (sequence >= manifest.sequences[number]) this.open.delete(number);
    return true;
  }
}

/**
 * Which tables have an address (the longest prefix that covers it) or exactly a prefix: `rows` of {node, target, prefix,
 * gateway, state}; the nodes `without` it; those of which a table is `unknown`. `progress(come, wanted)` counts buckets.
 */
export async function whoHas(broker, nodes, asked, progress) {
  const { tables, missing } = await readManifests(broker, nodes);
  const networks = networksOf(asked);
  const numbers = new Map(); // depth to the buckets
  for (const { depth } of tables.values()) {
    if (!numbers.has(depth)) numbers.set(depth, bucketsOf(networks, depth));
  }
  const copies = new Map([...tables].map(([key, it]) => [key, new Copy(it, numbers.get(it.depth))]));
  const wanted = [...copies.values()].reduce((sum, it) => sum + it.open.size, 0);
  let open = wanted;
  const best = new Map(); // table to the longest
  const names = [...numbers].flatMap(([depth, some]) => [...some].map((it) => bucketName(it, depth)));
  const take = ({ node, part, target, bucket, data }) => {
    const key = keyOf({ node, target });
    const copy = part === "table" && data ? copies.get(key) : null;
    if (!copy) return false;
    const before = copy.open.size;
    if (!copy.take(bucket, data)) return false;
    for (const row of data.routes) {
      const length = Number(row.prefix.split("/")[1]);
      if (networks.has(row.prefix) && !(best.get(key)?.length > length))
        best.set(key, { node, target, length, ...row });
    }
    open += copy.open.size - before;
    progress(wanted - open, wanted);
    return open === 0;
  };
  if (open) await broker.gather(topics.buckets(broker.root, new Set(names)), take);
  const unknown = new Set(missing);
  for (const [key, { manifest, open: left }] of copies) {
    if (!left.size) continue;
    unknown.add(manifest.node);
    best.delete(key); // a longer prefix may be in what is missing
  }
  const rows = [...best.values()];
  const has = new Set(rows.map((it) => it.node));
  const without = new Set(
    [...tables.values()].map((it) => it.node).filter((it) => !has.has(it) && !unknown.has(it)),
  );
  return { rows, without: [...without], unknown: [...unknown] };
}

/** Both nodes' tables of a target, prefix to row; those that are not whole are named in `unknown`. */
export async function readTwo(broker, target, names) {
  const parts = new Map(names.map((it) => [it, { buckets: new Map(), manifest: null }]));
  const copyOf = ({ manifest, buckets }) => {
    if (!manifest) return null;
    const copy = new Copy(manifest, Array(2 ** manifest.depth).keys());
    const rows = new Map();
    for (const [bucket, data] of buckets) {
      if (copy.take(bucket, data)) for (const row of data.routes) rows.set(row.prefix, row);
    }
    return { rows, whole: copy.open.size === 0 };
  };
  const wanted = names.map((it) => `${broker.root}/${it}/table/${target}/+`);
  await broker.gather(wanted, ({ node, part, target: of, bucket, data }) => {
    const found = of === target ? parts.get(node) : null;
    if (!found) return;
    if (part === "manifest") found.manifest = data;
    else if (part === "table" && data) found.buckets.set(bucket, data);
  });
  const copies = new Map([...parts].map(([name, it]) => [name, copyOf(it)]));
  return {
    tables: new Map([...copies].map(([name, it]) => [name, it?.rows ?? new Map()])),
    unknown: [...copies].filter(([, it]) => !it?.whole).map(([name]) => name),
  };
}
