// Addresses and prefixes: reading, ordering, and which covers which.

const WIDTH = { 4: 32, 6: 128 };

/** A prefix, or an address as its host prefix: {family, bits (a BigInt as wide as the family), length}; else null. */
export function parse(text) {
  const [address, mask, ...rest] = text.trim().split("/");
  if (rest.length) return null;
  const family = address.includes(":") ? 6 : 4;
  const bits = family === 6 ? parse6(address) : parse4(address);
  if (bits === null) return null;
  if (mask === undefined) return { family, bits, length: WIDTH[family], isAddress: true };
  if (!/^\d{1,3}$/.test(mask) || Number(mask) > WIDTH[family]) return null;
  return { family, bits, length: Number(mask), isAddress: false };
}

function parse4(text) {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((it) => /^\d{1,3}$/.test(it) && Number(it) < 256)) return null;
  return BigInt(parts.reduce((sum, it) => sum * 256 + Number(it), 0));
}

function parse6(text) {
  let source = text;
  const dotted = source.lastIndexOf(":") + 1;
  if (source.includes(".")) {
    const tail = parse4(source.slice(dotted));
    if (tail === null) return null;
    source = source.slice(0, dotted) + [tail >> 16n, tail & 0xffffn].map((it) => it.toString(16)).join(":");
  }
  const halves = source.split("::");
  if (halves.length > 2) return null;
  const [head, tail] = halves.map((half) => (half === "" ? [] : half.split(":")));
  const missing = 8 - head.length - (tail?.length ?? 0);
  if (tail ? missing < 1 : missing !== 0) return null;
  const groups = tail ? [...head, ...Array(missing).fill("0"), ...tail] : head;
  if (!groups.every((it) => /^[0-9a-f]{1,4}$/i.test(it))) return null;
  return BigInt(`0x${groups.map((it) => it.padStart(4, "0")).join("")}`);
}

export function covers(outer, inner) {
  if (outer.family !== inner.family || outer.length > inner.length) return false;
  const shift = BigInt(WIDTH[outer.family] - outer.length);
  return outer.bits >> shift === inner.bits >> shift;
}

export function compare(a, b) {
  if (a.family !== b.family) return a.family - b.family;
  if (a.bits !== b.bits) return a.bits < b.bits ? -1 : 1;
  return a.length - b.length;
}

/** The network of this length that an address lies in, as text in its usual form. */
export function network(address, length) {
  const shift = BigInt(WIDTH[address.family] - length);
  const bits = (address.bits >> shift) << shift;
  return `${address.family === 4 ? format4(bits) : format6(bits)}/${length}`;
}

const format4 = (bits) => [24n, 16n, 8n, 0n].map((it) => (bits >> it) & 255n).join(".");

/** As inet_ntop(3): the longest run of two or more zero groups is left out, the first of equals (RFC 5952). */
function format6(bits) {
  if (bits >> 32n === 0xffffn) return `::ffff:${format4(bits & 0xffffffffn)}`;
  if (bits >> 32n === 0n && bits > 0xffffn) return `::${format4(bits)}`;
  const groups = [...Array(8).keys()].map((it) => ((bits >> BigInt(112 - 16 * it)) & 0xffffn).toString(16));
  const runs = [...groups.join(":").matchAll(/\b0(?::0\b)+/g)].map((it) => it[0]);
  if (!runs.length) return groups.join(":");
  const longest = runs.reduce((best, it) => (it.length > best.length ? it : best));
  return groups.join(":").replace(new RegExp(`(^|:)${longest}(:|$)`), "::");
}
