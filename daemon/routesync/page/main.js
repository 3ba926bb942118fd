// Puts the page together for its data source: one node, or a fleet.

import { h, say } from "./dom.js";
import { NodeSource } from "./node.js";
import { NodeView } from "./view.js";

const THEMES = ["auto", "light", "dark"];

function themeButton() {
  const button = h("button", { type: "button", class: "theme" });
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    say(button, `Theme: ${theme}`);
  };
  let theme = "auto";
  try {
    theme = localStorage.getItem("theme") ?? theme;
  } catch {
    // no storage here: the choice lasts as long as the page
  }
  if (!THEMES.includes(theme)) theme = "auto";
  show(theme);
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    show(theme);
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // as above
    }
  });
  return button;
}

/** Keys of the node that is shown; `search` is the field for `/` while none is. */
function keys(shown, search) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, textarea, select"))
      return;
    const view = shown();
    if (event.key === "/") (view?.table.input ?? search).focus();
    else if (event.key === "p" && view) view.timeline.setPaused(!view.timeline.paused);
    else return;
    event.preventDefault();
  });
}

const FOOT =
  "Read only. Keys: / search, arrows and Enter in the table, p pause, Escape closes an explanation.";

function build(heading, link, content) {
  document.body.append(
    h("header", {}, h("span", { class: "brand" }, "routesync"), heading, link, themeButton()),
    content,
    h("footer", { class: "muted" }, FOOT),
  );
}

async function start({ source, broker, root }) {
  if (source === "fleet") {
    const { FleetView } = await import("./fleet.js");
    const fleet = new FleetView({ url: broker || `ws://${location.hostname || "localhost"}:9001`, root });
    build(h("div", { class: "heading" }, fleet.title), [fleet.link, fleet.change], fleet.element);
    keys(() => fleet.view, fleet.input);
    if (broker) fleet.connect({ url: broker, root });
  } else {
    const view = new NodeView((...parts) => new NodeSource(...parts));
    build(view.heading, view.link, h("main", {}, view.element));
    keys(() => view);
    view.start();
  }
}

start(document.documentElement.dataset);
