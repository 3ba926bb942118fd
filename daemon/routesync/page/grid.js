// A table of any length: only the rows that can be seen are elements.

import { eachFrame, fill, h, setAttribute } from "./dom.js";

const SPARE = 8; // rows above and below what is seen
let grids = 0;

/**
 * A grid with `columns` ({title, class}); `show(item)` returns the content of each cell of a row.
 * Items have a `version` that changes with what is shown of them. `open(item)` is called by Enter or a click.
 * Arrow keys, Page Up, Page Down, Home and End move the active row; `rowHeight()` is in pixels.
 */
export class Grid {
  constructor({ label, columns, show, open, rowHeight, empty }) {
    this.id = `grid-${(grids += 1)}`;
    this.columns = columns;
    this.show = show;
    this.open = open;
    this.rowHeight = rowHeight;
    this.items = [];
    this.active = null;
    this.pool = new Map(); // index to element
    this.body = h("div", { class: "grid-body", role: "rowgroup" });
    this.empty = h("p", { class: "empty", hidden: true });
    this.emptyText = empty;
    this.head = h(
      "div",
      { class: "grid-head", role: "rowgroup" },
      h(
        "div",
        { class: "grid-row", role: "row", "aria-rowindex": "1" },
        columns.map((it) => h("span", { role: "columnheader", class: it.class }, it.title)),
      ),
    );
    this.scroller = h(
      "div",
      {
        class: "grid-scroll",
        role: "grid",
        tabindex: "0",
        "aria-label": label,
        on: { keydown: (it) => this.key(it) },
      },
      this.head,
      this.body,
    );
    this.element = h("div", { class: "grid" }, this.scroller, this.empty);
    this.render = eachFrame(() => this.draw());
    this.scroller.addEventListener("scroll", this.render, { passive: true });
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("[role=row]");
      if (row) this.choose(row.index, true);
    });
    new ResizeObserver(this.render).observe(this.scroller);
  }

  /** Show these; the active item stays active if it is still among them. */
  set(items) {
    this.items = items;
    this.render();
  }

  /** Show the rows that are elements again, whether they changed or not. */
  showAgain() {
    for (const row of this.pool.values()) row.version = null;
    this.render();
  }

  draw() {
    const { items, scroller, body, pool } = this;
    const height = this.rowHeight();
    body.style.height = `${items.length * height}px`;
    setAttribute(this.scroller, "aria-rowcount", items.length + 1);
    this.empty.hidden = items.length > 0;
    if (!items.length) fill(this.empty, this.emptyText());
    const first = Math.max(0, Math.floor(scroller.scrollTop / height) - SPARE);
    const last = Math.min(
      items.length,
      Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + SPARE,
    );
    const spare = [];
    for (const [index, row] of pool) {
      if (index < first || index >= last) {
        pool.delete(index);
        spare.push(row);
      }
    }
    for (let index = first; index < last; index += 1) {
      let row = pool.get(index);
      if (!row) {
        row = spare.pop() ?? this.make();
        pool.set(index, row);
        row.index = index;
        row.id = `${this.id}-${index}`;
        row.setAttribute("aria-rowindex", index + 2);
        row.style.transform = `translateY(${index * height}px)`;
        row.item = null;
      } else if (row.height !== height) row.style.transform = `translateY(${index * height}px)`;
      row.height = height;
      const item = items[index];
      if (row.item !== item || row.version !== item.version) {
        row.item = item;
        row.version = item.version;
        this.show(item).forEach((content, it) => fill(row.children[it], content));
      }
      setAttribute(row, "class", `grid-row${item === this.active ? " active" : ""}`);
      setAttribute(row, "aria-selected", item === this.active ? "true" : "false");
    }
    for (const row of spare) row.remove();
    const shown = [...pool.values()].find((it) => it.item === this.active);
    setAttribute(this.scroller, "aria-activedescendant", shown ? shown.id : null);
  }

  make() {
    const row = h("div", { class: "grid-row", role: "row" });
    for (const it of this.columns) row.append(h("span", { role: "gridcell", class: it.class }));
    this.body.append(row);
    return row;
  }

  choose(index, open = false) {
    const at = Math.min(this.items.length - 1, Math.max(0, index));
    if (at < 0) return;
    this.active = this.items[at];
    const { scroller } = this;
    const height = this.rowHeight();
    const top = at * height;
    const room = scroller.clientHeight - this.head.offsetHeight;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height > scroller.scrollTop + room) scroller.scrollTop = top + height - room;
    this.render();
    if (open) this.open(this.active);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.rowHeight()) - 1);
    const at = this.active ? this.items.indexOf(this.active) : -1;
    const moves = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: this.items.length - 1,
    };
    if (event.key in moves) this.choose(moves[event.key]);
    else if (event.key === "Enter" && at >= 0) this.choose(at, true);
    else return;
    event.preventDefault();
  }
}
