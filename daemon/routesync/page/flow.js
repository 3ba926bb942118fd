// The picture: kernel, rules, best routes, targets, broker. Its parts are buttons that narrow the table.

import { count, ago, duration, fill, glyph, h, keyed, plural, say, setAttribute } from "./dom.js";
import { PHASES, SHAPES, kindOf, kindOfTarget, shapeOf, token } from "./model.js";

export class Flow {
  /** `narrow(search)` is called with what the table should be narrowed to. */
  constructor(narrow) {
    this.narrow = narrow;
    this.kernel = stage("Kernel");
    this.rules = stage("Rules");
    this.best = stage("Best routes");
    this.targets = h("div", { class: "stage targets", role: "group", "aria-label": "Targets" });
    this.broker = stage("Broker");
    this.links = [link(), link(), link("changes"), link("events")];
    this.ruleList = h("div", { class: "bars" });
    this.rules.body.append(this.ruleList);
    const [one, two, three, four] = this.links;
    this.element = h(
      "section",
      { class: "flow", "aria-label": "How routes flow" },
      [this.kernel, one, this.rules, two, this.best, three, { element: this.targets }, four, this.broker].map(
        (it) => it.element,
      ),
    );
  }

  /** `rates`: changes and events a second. */
  update({ status, rules, targets }, rates) {
    const kernel = status.kernel ?? {};
    const unreadable = kernel.state === "unreadable";
    this.kernel.figure(
      (kernel.routes ?? 0) + (kernel.dropped ?? 0),
      unreadable ? "routes held" : "routes followed",
    );
    this.kernel.facts([
      unreadable ? "▲ unreadable" : kernel.state === "synced" ? "in step" : `${kernel.state ?? "unknown"}`,
      plural(kernel.resyncs ?? 0, "resync"),
      kernel.overruns ? `▲ ${plural(kernel.overruns, "overrun")}` : "no overrun",
      `lag ${(kernel.lag_ms ?? 0).toFixed(1)} ms`,
      status.guard && guardText(status.guard),
    ]);
    const most = Math.max(1, ...rules.map((it) => it.routes));
    keyed(
      this.ruleList,
      rules,
      (it) => it.rule,
      () => this.rule(),
    );
    for (const bar of this.ruleList.children) bar.scale(most);
    this.best.figure(kernel.routes ?? 0, "kept, one a prefix");
    this.best.facts([`${count(kernel.dropped ?? 0)} dropped by rules`]);
    if (!targets.length) fill(this.targets, h("p", { class: "empty" }, noTarget(status)));
    else {
      this.targets.querySelector(":scope > .empty")?.remove();
      keyed(
        this.targets,
        targets,
        (it) => it.name,
        () => this.target(),
      );
    }
    for (const card of this.targets.children) card.alarms?.(status.alarms ?? []);
    const broker = status.broker ?? "not configured";
    const lost = status.broker && broker !== "connected";
    this.broker.word(lost ? "bad" : status.broker ? "good" : "off", lost ? "not connected" : broker);
    this.broker.facts([lost && broker, ...(status.held ?? []).map(heldText)]);
    this.links[2].rate(rates.changes);
    this.links[3].rate(rates.events);
  }

  button(props, ...children) {
    return h("button", { type: "button", ...props }, ...children);
  }

  /** A rule: its bar is as long as its share of the rule with most routes. */
  rule() {
    const name = h("span", { class: "name" });
    const number = h("span", { class: "number" });
    const fillBar = h("i");
    const word = h("span", { class: "word" });
    const bar = this.button(
      { class: "bar" },
      name,
      word,
      h("span", { class: "track", "aria-hidden": "true" }, fillBar),
      number,
    );
    bar.update = (it) => {
      bar.routes = it.routes;
      say(name, it.rule);
      say(word, it.action);
      say(number, count(it.routes));
      setAttribute(bar, "class", `bar ${it.action === "drop" ? "drop" : "keep"}`);
      const titles = {
        drop: "Dropped routes are not in the table below",
        keep: `Show what ${it.rule} keeps`,
      };
      setAttribute(bar, "title", titles[it.action] ?? "Only the node knows which routes these are");
      bar.disabled = it.action !== "keep";
      bar.onclick = () => this.narrow(token("rule", it.rule));
    };
    bar.scale = (most) => {
      fillBar.style.width = bar.routes ? `max(2px, ${(100 * bar.routes) / most}%)` : "0";
    };
    return bar;
  }

  target() {
    const mark = glyph("ring");
    const name = h("b");
    const state = h("span", { class: "state" });
    const error = h("span", { class: "error" });
    const about = h("span", { class: "about" });
    const total = h("span", { class: "total" });
    const stack = h("div", { class: "stack", "aria-hidden": "true" });
    const phases = h("div", { class: "chips" });
    const progress = h("progress", { max: 1 });
    const waiting = h("span");
    const work = h("div", { class: "waiting" }, progress, waiting);
    const reasons = h("div", { class: "chips" });
    const alarms = h("ul", { class: "alarms" });
    const card = h(
      "div",
      { class: "card" },
      h("div", { class: "head" }, mark, name, state, total),
      error,
      about,
      stack,
      phases,
      work,
      reasons,
      alarms,
    );
    let highest = 0; // the most that was waiting since nothing was: what the progress bar is measured by
    card.update = (it) => {
      card.name = it.name;
      const kind = kindOfTarget(it);
      setAttribute(card, "class", `card ${kind}`);
      setAttribute(mark, "class", `glyph ${SHAPES[kind]}`);
      say(name, it.name);
      say(state, it.state);
      say(error, (kind !== "good" && it.error) || "");
      error.hidden = !error.textContent;
      say(total, `${count(mirrored(it))} of ${count(it.desired)}`);
      setAttribute(total, "title", "mirrored of desired");
      const proof =
        it.proof ??
        (it.proved_s === null || it.proved_s === undefined ? "not proved yet" : `proved ${ago(it.proved_s)}`);
      say(
        about,
        [
          it.url,
          it.version && `loxilb ${it.version}`,
          it.state === "synced" && !it.complete && "not complete",
          it.holes && `${plural(it.holes, "more specific route")} not sent, inside prefixes that are`,
          proof,
        ]
          .filter(Boolean)
          .join(" · "),
      );
      const known = new Set([...Object.keys(PHASES), ...Object.keys(it.phases)]); // a later version may have more
      const shown = [...known].filter((phase) => it.phases[phase]);
      const all = shown.reduce((sum, phase) => sum + it.phases[phase], 0);
      keyed(
        stack,
        shown.map((phase) => ({ phase, share: it.phases[phase] / all })),
        (part) => part.phase,
        segment,
      );
      keyed(
        phases,
        shown.map((phase) => ({ phase, number: it.phases[phase] })),
        (part) => part.phase,
        () => this.phase(it.name),
      );
      const left =
        it.remaining_s === null || it.remaining_s === undefined || it.waiting <= it.held
          ? ""
          : `, about ${duration(it.remaining_s)} left at ${count(Math.round(it.rate))}/s`;
      highest = it.waiting ? Math.max(highest, it.waiting) : 0;
      work.hidden = !it.waiting;
      progress.value = highest ? 1 - it.waiting / highest : 1;
      progress.hidden = !left; // nothing is sent
      setAttribute(progress, "aria-label", `${it.name}: work done`);
      say(
        waiting,
        `${count(it.waiting)} waiting${left}${it.held ? `; ${plural(it.held, "withdrawal")} held` : ""}`,
      );
      keyed(
        reasons,
        Object.entries(it.reasons ?? {}),
        ([code]) => code,
        () => this.reason(it.name),
      );
    };
    card.alarms = (all) => {
      const own = all.filter((it) => it.target === card.name);
      alarms.hidden = !own.length;
      keyed(alarms, own, (it) => it.kind, alarm);
    };
    return card;
  }

  phase(target) {
    const mark = glyph("ring");
    const text = h("span");
    const chip = this.button({ class: "chip" }, mark, text);
    chip.update = ({ phase, number }) => {
      setAttribute(mark, "class", `glyph ${shapeOf(phase)} ${kindOf(phase)}`);
      say(text, `${count(number)} ${phase}`);
      setAttribute(chip, "title", PHASES[phase]?.[2]);
      chip.onclick = () => this.narrow(`${token("phase", phase)} ${token("target", target)}`);
    };
    return chip;
  }

  reason(target) {
    const chip = this.button({ class: "chip reason", title: "Why these are not sent" });
    chip.update = ([code, number]) => {
      say(chip, `${count(number)} ${code}`);
      chip.onclick = () => this.narrow(`${token("reason", code)} ${token("target", target)}`);
    };
    return chip;
  }
}

const mirrored = (it) =>
  ["confirmed", "accepted", "present"].reduce((sum, phase) => sum + (it.phases[phase] ?? 0), 0);

function segment({ phase }) {
  const part = h("i", { class: `${kindOf(phase)} ${phase}` });
  part.update = ({ share }) => {
    part.style.flexGrow = share;
  };
  return part;
}

function alarm() {
  const kind = h("b");
  const detail = h("span");
  const item = h("li", {}, glyph("triangle bad"), kind, " ", detail);
  item.update = (it) => {
    say(kind, it.kind);
    say(detail, it.detail);
  };
  return item;
}

const heldText = (it) => `▲ ${plural(it.count, "event")} held, which the broker denies: ${it.topic}`;

function noTarget(status) {
  if (status.state === "offline") return "The node is offline: nothing more is known of it.";
  return `No target: mode ${status.mode || "unknown"}.`;
}

function guardText(guard) {
  const verb = guard.dry_run ? "would be removed" : "to be removed";
  return `guard: ${count(guard.redundant)} ${verb}, ${count(guard.removed)} removed, ${count(guard.failed)} failed`;
}

/** One box of the picture, with a figure or a word, and facts below. */
function stage(title) {
  const figure = h("p", { class: "figure" });
  const label = h("p", { class: "label" });
  const facts = h("ul", { class: "facts" });
  const body = h("div", {}, figure, label);
  const element = h(
    "div",
    { class: "stage", role: "group", "aria-label": title },
    h("h2", {}, title),
    body,
    facts,
  );
  return {
    element,
    body,
    figure(number, text) {
      say(figure, count(number));
      say(label, text);
    },
    word(kind, text) {
      if (body.said === kind + text) return;
      body.said = kind + text;
      fill(figure);
      fill(label, glyph(`${SHAPES[kind]} ${kind}`), text);
    },
    facts(texts) {
      keyed(
        facts,
        texts.filter(Boolean).map((text, at) => ({ text, at })),
        (it) => it.at,
        () => {
          const item = h("li");
          item.update = (it) => say(item, it.text);
          return item;
        },
      );
    },
  };
}

/** The way between two boxes; it moves while something passes. */
function link(unit) {
  const text = h("span", { class: "rate" });
  const element = h("div", { class: "link" }, h("span", { class: "wire", "aria-hidden": "true" }), text);
  return {
    element,
    rate(number) {
      setAttribute(element, "class", number > 0 ? "link busy" : "link");
      say(text, number > 0 ? `${number < 10 ? number.toFixed(1) : count(Math.round(number))}/s` : "");
      setAttribute(text, "title", `${unit} a second`);
    },
  };
}
