// The table of routes and its search.

import { count, eachFrame, glyph, h, moment, plural, say } from "./dom.js";
import { Grid } from "./grid.js";
import { kindOf, parseSearch, rankOf, shapeOf } from "./model.js";

const HELP = "Words, an address or a prefix; or ";
const STATE_HELP = "phase:NAME reason:CODE target:NAME family:ipv6 is:trouble is:waiting is:mirrored";

export class RoutesView {
  /** `explain(text)` is called for an address or prefix. */
  constructor(explain, kernel) {
    this.explain = explain;
    this.kernel = kernel;
    this.routes = null;
    this.input = h("input", {
      type: "search",
      id: "search",
      placeholder: "10.244.1.7, 10.244.0.0/16, phase:refused …",
      autocomplete: "off",
      spellcheck: "false",
      "aria-describedby": "search-help",
      on: {
        input: () => this.narrow(this.input.value, true),
        keydown: (it) => it.key === "Enter" && this.entered(),
      },
    });
    this.ask = h("button", {
      type: "button",
      class: "primary",
      hidden: true,
      on: { click: () => this.entered() },
    });
    this.number = h("span", { class: "muted", role: "status" });
    this.grid = new Grid({
      label: "Routes",
      columns: [
        { title: "Prefix", class: "prefix" },
        { title: "Kernel", class: "way" },
        { title: "Rule", class: "rule" },
        { title: "At the targets", class: "states" },
        { title: "Why", class: "why" },
      ],
      show: cells,
      open: (row) => this.explain(row.prefix),
      rowHeight: () => (matchMedia("(max-width: 46rem)").matches ? 58 : 30),
      empty: () => this.emptyText(),
    });
    this.element = h(
      "section",
      { class: kernel ? "routes panel" : "routes panel no-kernel", "aria-labelledby": "routes-title" },
      h("div", { class: "bar-line" }, h("h2", { id: "routes-title" }, "Routes"), this.number),
      h(
        "div",
        { class: "search", role: "search" },
        h("label", { for: "search", class: "hidden" }, "Search the routes"),
        this.input,
        this.ask,
      ),
      h("p", { id: "search-help", class: "hint" }, HELP, kernel && "rule:NAME protocol:NAME ", STATE_HELP),
      this.grid.element,
    );
    this.refresh = eachFrame(() => this.filter());
  }

  show(routes) {
    this.routes = routes;
    this.refresh();
  }

  setBehind(isBehind) {
    if (this.isBehind === isBehind) return;
    this.isBehind = isBehind;
    this.refresh();
  }

  /** Show only what matches. */
  narrow(text, typed = false) {
    if (!typed) this.input.value = text;
    this.search = parseSearch(text);
    const { network } = this.search;
    this.ask.hidden = !network;
    if (network) say(this.ask, network.isAddress ? "What happens to it?" : "Explain it");
    this.grid.scroller.scrollTop = 0;
    history.replaceState(
      null,
      "",
      text ? `#${encodeURIComponent(text)}` : location.pathname + location.search,
    );
    this.refresh();
  }

  entered() {
    if (!this.search?.network) return;
    const asked = this.input.value.split(/\s+/).find((it) => parseSearch(it).network);
    this.explain(asked);
  }

  filter() {
    if (!this.routes?.loaded) return;
    const all = this.routes.all;
    const text = this.input.value.trim();
    let rows = text ? all.filter(this.search.matches) : all;
    if (text && this.search.network?.isAddress) rows = rows.reverse(); // the longest prefix first
    const shown =
      rows.length === all.length
        ? plural(all.length, "prefix", "prefixes")
        : `${count(rows.length)} of ${count(all.length)}`;
    say(this.number, this.isBehind ? `${shown}, reading the latest changes` : shown);
    this.element.classList.toggle("many", all.length > 0 && Object.keys(all[0].targets).length > 1);
    this.grid.set(rows);
  }

  emptyText() {
    if (!this.routes?.loaded) return "Reading the table …";
    if (!this.routes.all.length) return this.kernel ? "The rules keep no route." : "No route is published.";
    const dropped = "Dropped routes are not in this table; search for an address or prefix and explain it.";
    return this.kernel ? `Nothing matches. ${dropped}` : "Nothing matches.";
  }
}

function cells(row) {
  const states = Object.entries(row.targets);
  const { worst, route } = row;
  return [
    row.prefix,
    route
      ? [
          route.way || "on its link",
          h(
            "small",
            {},
            ` ${route.protocol}${route.metric ? ` metric ${route.metric}` : ""}${row.candidates > 1 ? ` · ${row.candidates} candidates` : ""}`,
          ),
        ]
      : h("small", {}, "gone from the kernel"),
    route?.rule ?? "",
    phasesOf(states),
    worst ? whyText(worst, states) : "",
  ];
}

/** The phase; of several targets the number in each phase, the worst first. */
function phasesOf(states) {
  const groups = Map.groupBy(states, ([, it]) => it.phase);
  return [...groups]
    .sort(([one], [other]) => rankOf(other) - rankOf(one))
    .flatMap(([phase, them], at) => [
      at > 0 && " ",
      h(
        "span",
        { class: `phase ${kindOf(phase)}`, title: `${phase}: ${them.map(([name]) => name).join(", ")}` },
        glyph(shapeOf(phase)),
        states.length > 1 ? `${them.length} ` : "",
        phase,
      ),
    ]);
}

function whyText(it, states) {
  const parts = [it.code, it.detail].filter(Boolean);
  const [name] = states.find(([, one]) => one === it);
  if (parts.length) return (states.length > 1 ? [name, ...parts] : parts).join(": ");
  const via = it.gateway ? `via ${it.gateway}` : "";
  const since = it.since ? `since ${moment(it.since)}` : "";
  return [via, since].filter(Boolean).join(", ") + (it.degraded ? ", one hop of several" : "");
}
