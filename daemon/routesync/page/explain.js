// Why an address or prefix is mirrored or not: a path of decisions, and what happened to it.

import { fill, glyph, h, moment } from "./dom.js";
import { kindOf, shapeOf, wayOf } from "./model.js";
import { sentence } from "./words.js";

export class ExplainView {
  /** `ask(text)` returns a promise of an explanation; `history(prefix)` the events seen. */
  constructor(ask, history) {
    this.ask = ask;
    this.history = history;
    this.title = h("h2", { id: "explain-title", tabindex: "-1" });
    this.body = h("div", { class: "explain-body" });
    this.element = h(
      "dialog",
      {
        class: "explain panel",
        "aria-labelledby": "explain-title",
        on: { close: () => this.closed() },
      },
      h(
        "div",
        { class: "bar-line" },
        this.title,
        h("button", { type: "button", on: { click: () => this.open(this.asked) } }, "Again"),
        h("button", { type: "button", on: { click: () => this.element.close() } }, "Close"),
      ),
      this.body,
    );
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.element.close();
    });
  }

  async open(text) {
    if (!this.element.open) {
      this.before = document.activeElement;
      this.element.show();
    }
    this.asked = text;
    fill(this.title, text);
    fill(this.body, h("p", { class: "muted" }, "Dumping the kernel's table …"));
    this.title.focus({ preventScroll: true });
    let content;
    let prefix = text;
    try {
      const answer = await this.ask(text);
      content = explained(answer);
      if (!text.includes("/")) prefix = answer.prefixes[0]?.prefix ?? text; // of an address: of what covers it
    } catch (error) {
      content = h("p", { class: "bad" }, glyph("triangle"), error.message);
    }
    if (this.asked !== text) return; // another one was asked for meanwhile
    fill(this.body, content, this.past(prefix));
  }

  closed() {
    this.asked = null;
    this.before?.focus({ preventScroll: true });
  }

  past(prefix) {
    const events = this.history(prefix).toReversed();
    return [
      h("h3", {}, `History of ${prefix}`),
      events.length
        ? h(
            "ol",
            { class: "events" },
            events.map((it) => h("li", {}, h("time", {}, moment(it.time)), sentence(it, true))),
          )
        : h("p", { class: "muted" }, "Among the events that this page has seen, none is about it."),
    ];
  }
}

function explained(answer) {
  if (answer.parts) return answer.parts; // a source without a daemon says it in its own way
  const parts = answer.targets.map((target) => h("p", { class: "verdict" }, ...verdict(answer, target)));
  if (!answer.prefixes.length) {
    parts.push(h("p", {}, `No route covers it in the tables that are read (${answer.tables.join(", ")}).`));
  }
  if (!answer.complete) {
    parts.push(
      h(
        "p",
        { class: "bad" },
        glyph("triangle"),
        "The table changed during the dump: routes may be missing.",
      ),
    );
  }
  return [...parts, answer.prefixes.map(decisions)];
}

/** By which route a target sends to what was asked for, as far as is known: the longest owned or shown one. */
function verdict(answer, target) {
  const name = h("b", {}, target.name);
  const unwell = ["synced", "syncing"].includes(target.state)
    ? ""
    : ` (${target.state}${target.error ? `: ${target.error}` : ""})`;
  for (const { prefix, targets } of answer.prefixes) {
    const it = targets.find((one) => one.target === target.name);
    if (it?.owned) {
      return [
        glyph(`${shapeOf(it.phase)} ${kindOf(it.phase)}`),
        name,
        ` sends it by ${prefix} via ${it.owned}: ${it.phase}`,
        unwell,
      ];
    }
    if (it?.shown)
      return [glyph("diamond off"), name, ` has ${prefix} ${it.shown}; routesync does not own it`, unwell];
  }
  return [glyph("dash off"), name, " has no route of routesync that covers it", unwell];
}

const step = (shape, label, ...content) =>
  h("li", { class: "step" }, glyph(shape), h("span", { class: "of" }, label), h("div", {}, content));

/** The ways of all candidates of one prefix; only that of the elected one goes on to the targets. */
function decisions({ prefix, candidates, held, targets }) {
  const ways = candidates.map((it) => {
    const from = it.source_prefix ? `from ${it.source_prefix} ` : "";
    const tos = it.tos ? `tos 0x${it.tos.toString(16).padStart(2, "0")} ` : "";
    const metric = it.metric ? ` metric ${it.metric}` : "";
    const table = it.table === "main" ? "" : ` table ${it.table}`;
    const end = it.elected ? "disc good" : it.verdict === "keep" ? "ring off" : "cross off";
    return h(
      "ol",
      { class: it.elected ? "path" : "path ends" },
      step(
        it.elected ? "disc good" : "ring off",
        "kernel",
        h(
          "p",
          { class: "mono" },
          `${from}${tos}${wayOf(it) || "on its link"} proto ${it.protocol}${metric}${table}`,
        ),
      ),
      step(end, "rule", h("p", {}, it.why)),
      it.next_hop?.length
        ? step("disc good", "next hop", h("p", {}, `${it.next_hop.join(", ")}, set by the rule`))
        : null,
      it.elected ? targets.map(atTarget) : null,
    );
  });
  if (!candidates.some((it) => it.elected)) {
    const words = candidates.length ? "no route is left to mirror" : "no route to it any more";
    ways.push(
      h("ol", { class: "path" }, step("cross off", "kernel", h("p", {}, words)), targets.map(atTarget)),
    );
  }
  if (!held) {
    const words = "The daemon has another route: it is processing a change, or resync corrects it.";
    ways.push(h("p", { class: "bad" }, glyph("triangle"), words));
  }
  return h("section", { class: "decision" }, h("h3", { class: "mono" }, prefix), ways);
}

function atTarget(it) {
  const via = it.owned ?? it.desired;
  const why = [it.code, it.detail].filter(Boolean).join(": ");
  const read = it.read ? `Its table, read at ${moment(Date.parse(it.read))}: ` : "Its table was not read yet";
  const witness = { true: "; its kernel has it", false: "; its kernel does not have it" }[it.witnessed] ?? "";
  return step(
    `${shapeOf(it.phase)} ${kindOf(it.phase)}`,
    it.target,
    h(
      "p",
      {},
      h("b", { class: kindOf(it.phase) }, it.phase),
      via ? ` via ${via}` : "",
      it.since ? `, since ${moment(Date.parse(it.since))}` : "",
    ),
    why ? h("p", {}, why) : null,
    it.degraded ? h("p", {}, "Only one hop of a multipath route is mirrored.") : null,
    h("p", { class: "muted" }, read, it.read ? (it.shown ?? "nothing for this prefix") : "", witness),
  );
}
