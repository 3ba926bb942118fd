// Making elements. Text only ever becomes text nodes and attributes, never markup: much of it comes from peers.

const SVG = "http://www.w3.org/2000/svg";

// Control and bidirectional characters could hide or reorder what stands beside them: they are shown by their number.
// eslint-disable-next-line no-control-regex
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A text from outside as it may be shown. */
export const clean = (text) =>
  String(text).replace(HIDDEN, (it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** An element. In `props`, `on` has listeners by event; the others are attributes; false and null are left out. */
export function h(tag, props = {}, ...children) {
  return furnish(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), props, children);
}

function furnish(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else {
      setAttribute(element, name, value);
    }
  }
  fill(element, ...children);
  return element;
}

export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value === true ? "" : name === "class" ? value : clean(value));
  }
}

/** Replace the children; null and false are left out, and all that is no node becomes text. */
export function fill(element, ...children) {
  element.replaceChildren(
    ...children
      .flat(Infinity)
      .filter((it) => it !== null && it !== undefined && it !== false)
      .map((it) => (it instanceof Node ? it : clean(it))),
  );
}

/** Set the text, if it is another. */
export function say(element, text) {
  const cleaned = clean(text);
  if (element.textContent !== cleaned) element.textContent = cleaned;
}

/**
 * Show one child an item, and keep those that are there already, with their focus.
 * `make` returns an element with a method `update(item)`.
 */
export function keyed(parent, items, keyOf, make) {
  const before = new Map();
  for (const it of [...parent.children]) {
    if (before.has(it.key))
      it.remove(); // a peer gave two the same key
    else before.set(it.key, it);
  }
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = before.get(key);
    if (child) before.delete(key);
    else {
      child = make(item);
      child.key = key;
    }
    child.update?.(item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const gone of before.values()) gone.remove();
}

/** A mark whose form says the same as its colour. */
export const glyph = (shape) => h("span", { class: `glyph ${shape}`, "aria-hidden": "true" });

const NUMBERS = new Intl.NumberFormat("en");
export const count = (number) => NUMBERS.format(number);
export const plural = (number, word, words = `${word}s`) => `${count(number)} ${number === 1 ? word : words}`;

export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const CLOCK = new Intl.DateTimeFormat("en-GB", TIME);
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", ...TIME });

/** A moment: the time of day, with the day if that is another one. */
export function moment(time) {
  if (!Number.isFinite(time)) return "?";
  return (new Date(time).toDateString() === new Date().toDateString() ? CLOCK : DAY).format(time);
}

/** How long ago: "8 s ago", "just now". */
export const ago = (seconds) => (seconds < 1.5 ? "just now" : `${duration(seconds)} ago`);

/** Run at most once a frame, however often it is called; in a tab that nobody sees, when it is seen again. */
export function eachFrame(run) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      run();
    });
  };
}
