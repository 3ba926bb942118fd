// The last minutes: changes a second, alarms, reconnects; and the last events in words.

import { count, eachFrame, fill, h, keyed, moment, say, setAttribute, svg } from "./dom.js";
import { GROUPS, directionOf, sentence, toneOf } from "./words.js";

const SPAN_S = 600;
const STEP_S = 2;
const STEPS = SPAN_S / STEP_S;
const SHOWN = 60; // events in words
const HEIGHT = 40; // of each half of the chart
const MARKS = new Set([
  "alarm.raised",
  "target.down",
  "target.up",
  "kernel.overrun",
  "kernel.resynced",
  "stream.lost",
  "broker.lost",
  "broker.back",
  "page.lost",
  "page.back",
]);

export class Timeline {
  constructor(history) {
    this.history = history;
    this.paused = false;
    this.only = null;
    this.came = new Map(); // step to the number of routes that came
    this.went = new Map();
    this.marks = [];
    this.up = svg("path", { class: "up" });
    this.down = svg("path", { class: "down" });
    this.flags = svg("g");
    this.scale = h("span");
    this.chart = svg(
      "svg",
      {
        viewBox: `0 0 ${STEPS} ${2 * HEIGHT + 14}`,
        preserveAspectRatio: "none",
        role: "img",
        class: "chart",
      },
      svg("line", { x1: 0, x2: STEPS, y1: HEIGHT, y2: HEIGHT, class: "axis" }),
      this.up,
      this.down,
      this.flags,
    );
    this.list = h("ol", { class: "events", tabindex: "0", "aria-label": "Events, the last first" });
    this.news = h("span", { class: "muted" });
    this.pause = h(
      "button",
      { type: "button", "aria-pressed": "false", on: { click: () => this.setPaused(!this.paused) } },
      "Pause",
    );
    this.filters = ["all", ...Object.keys(GROUPS)].map((name) =>
      h(
        "button",
        {
          type: "button",
          class: "chip",
          "aria-pressed": name === "all" ? "true" : "false",
          on: { click: () => this.filter(name) },
        },
        name,
      ),
    );
    this.element = h(
      "section",
      { class: "timeline panel", "aria-labelledby": "timeline-title" },
      h(
        "div",
        { class: "bar-line" },
        h("h2", { id: "timeline-title" }, "Last 10 minutes"),
        this.news,
        this.pause,
      ),
      h("div", { class: "scale", "aria-hidden": "true" }, this.scale, h("span", {}, "▲ alarm, outage")),
      this.chart,
      h(
        "div",
        { class: "scale", "aria-hidden": "true" },
        h("span", {}, "10 min ago"),
        h("span", {}, "5 min"),
        h("span", {}, "now"),
      ),
      h("div", { class: "chips", role: "group", "aria-label": "Show events of" }, this.filters),
      this.list,
    );
    this.refresh = eachFrame(() => this.draw());
    this.refresh();
    this.timer = setInterval(() => this.refresh(), 1000 * STEP_S);
  }

  add(event) {
    const step = Math.floor(event.time / 1000 / STEP_S);
    const direction = directionOf(event.kind);
    if (direction) {
      const counts = direction > 0 ? this.came : this.went;
      counts.set(step, (counts.get(step) ?? 0) + 1);
    }
    if (MARKS.has(event.kind)) this.marks.push({ step, bad: toneOf(event) === "bad" });
    if (this.paused) this.unseen += 1;
    this.refresh();
  }

  stop() {
    clearInterval(this.timer);
  }

  setPaused(paused) {
    this.paused = paused;
    this.unseen = 0;
    say(this.pause, paused ? "Resume" : "Pause");
    setAttribute(this.pause, "aria-pressed", paused ? "true" : "false");
    this.refresh();
  }

  filter(name) {
    this.only = GROUPS[name] ?? null;
    for (const it of this.filters)
      setAttribute(it, "aria-pressed", it.textContent === name ? "true" : "false");
    this.draw();
  }

  draw() {
    say(this.news, this.paused && this.unseen ? `${count(this.unseen)} new` : "");
    const now = Math.floor(Date.now() / 1000 / STEP_S);
    const first = now - STEPS + 1;
    for (const counts of [this.came, this.went]) {
      for (const step of counts.keys()) if (step < first) counts.delete(step);
    }
    this.marks = this.marks.filter((it) => it.step >= first).slice(-200);
    if (this.paused) return;
    const most = Math.max(1, ...this.came.values(), ...this.went.values());
    setAttribute(
      this.up,
      "d",
      bars(this.came, first, (n) => [HEIGHT, -height(n, most)]),
    );
    setAttribute(
      this.down,
      "d",
      bars(this.went, first, (n) => [HEIGHT, height(n, most)]),
    );
    const marks = this.marks.map((it, at) => ({ ...it, at }));
    keyed(
      this.flags,
      marks,
      (it) => it.at,
      () => flag(first),
    );
    for (const it of this.flags.children) it.place(first);
    const total = (counts) => [...counts.values()].reduce((sum, it) => sum + it, 0);
    say(
      this.scale,
      `+${count(total(this.came))} −${count(total(this.went))} · at most ${count(most / STEP_S)}/s`,
    );
    setAttribute(
      this.chart,
      "aria-label",
      `In the last 10 minutes ${count(total(this.came))} routes came, ${count(total(this.went))} went, ` +
        `${this.marks.filter((it) => it.bad).length} alarms and outages`,
    );
    const events = [];
    for (let at = this.history.events.length - 1; at >= 0 && events.length < SHOWN; at -= 1) {
      const event = this.history.events[at];
      if (!this.only || this.only.test(event.kind)) events.push(event);
    }
    keyed(
      this.list,
      events,
      (it) => it.id,
      (it) => h("li", {}, h("time", {}, moment(it.time)), sentence(it)),
    );
    if (!events.length) fill(this.list, h("li", { class: "muted" }, "Nothing has happened."));
  }
}

/** Half as high for a tenth: small changes stay visible beside a flood. */
const height = (number, most) => Math.max(1.5, HEIGHT * (Math.log1p(number) / Math.log1p(most)));

function bars(counts, first, shape) {
  const parts = [];
  for (const [step, number] of counts) {
    const [y, tall] = shape(number);
    parts.push(`M${step - first} ${y}v${tall.toFixed(1)}h.9v${(-tall).toFixed(1)}z`);
  }
  return parts.join("");
}

function flag() {
  const path = svg("path");
  path.update = (it) => {
    path.step = it.step;
    setAttribute(path, "class", it.bad ? "bad" : "good");
  };
  path.place = (first) => setAttribute(path, "d", `M${path.step - first} ${2 * HEIGHT + 13}l3 0l-1.5 -10z`);
  return path;
}
