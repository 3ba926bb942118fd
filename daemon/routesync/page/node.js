// One daemon, over its TCP listener: the status each second, the table once, and each change as it comes.

import { readEvent } from "./model.js";

const POLL_MS = 1000;
const PATIENCE_MS = 5000;
const SETTLE_MS = 300; // before the daemon is asked about rows that an event changed
const FEW = 8; // changed rows that are asked for one by one; for more the whole table is read
const LEAST_BETWEEN_LOADS_MS = 3000;
const HIDDEN_MS = 30_000; // a tab that nobody sees for so long leaves its place at the daemon

export class NodeSource {
  /**
   * `sink` has the methods status(response), changed(), event(event), connection(live, text), behind(isBehind), and
   * watched(most): the prefixes that are looked at.
   */
  constructor(routes, history, sink) {
    this.routes = routes;
    this.history = history;
    this.sink = sink;
    this.touched = new Set();
    this.loadAfter = 0;
    this.mismatches = 0;
    this.version = null;
    this.status = null;
    this.asOf = 0; // events up to then are in the table that was read
    this.last = null; // id of the last event
  }

  start() {
    document.addEventListener("visibilitychange", () => this.seen());
    // A page that the browser keeps for its back button would keep its stream, too: six of them use up all connections.
    addEventListener("pagehide", () => this.stream?.close());
    addEventListener("pageshow", () => this.seen());
    this.poll();
  }

  async poll() {
    const began = Date.now();
    if (!document.hidden) {
      try {
        this.take(await get("v1/status", PATIENCE_MS));
      } catch (error) {
        this.sink.connection(false, error.message);
      }
    }
    setTimeout(() => this.poll(), Math.max(100, began + POLL_MS - Date.now()));
  }

  take({ status, rules, targets: details }) {
    const first = this.status === null;
    // in mode guard the status has targets of which there are no details
    const targets = status.targets.map((it) => ({ ...it, ...details.find(({ name }) => name === it.name) }));
    const response = { status, rules, targets };
    if (this.version !== null && this.version !== status.version) location.reload(); // the files are another version's
    this.version = status.version;
    const restarted = !first && this.status.started !== status.started;
    this.status = status;
    const refused = this.stream?.readyState === EventSource.CLOSED;
    this.sink.connection(true, refused ? "live, without events: too many pages are open" : "live");
    this.sink.status(response);
    if (first) {
      this.follow(`${status.epoch}-0`);
      this.load();
    } else if (restarted) this.load();
    else this.compare(response);
  }

  // -- events --------------------------------------------------------------------------------------------------

  follow(after) {
    this.stream?.close();
    this.last = after;
    this.backlog = after.endsWith("-0"); // events before the remembered ones are not lost, only older than the page
    const stream = new EventSource(`v1/events?after=${encodeURIComponent(after)}`);
    this.stream = stream;
    stream.onmessage = (message) => this.message(message.data);
    stream.onerror = () => {
      // the browser connects again by itself, unless the daemon refused
      if (stream.readyState === EventSource.CLOSED && this.stream === stream) {
        setTimeout(() => this.stream === stream && !document.hidden && this.follow(this.last), PATIENCE_MS);
      }
    };
  }

  message(text) {
    let event = null;
    try {
      event = readEvent(JSON.parse(text));
    } catch {
      return;
    }
    if (!event || event.kind === "status") return;
    if (event.kind === "stream.lost") {
      if (this.backlog) return;
      this.reload();
    }
    this.backlog = false;
    if (event.sequence !== null) this.last = event.id;
    this.history.add(event);
    this.sink.event(event);
    if (event.time <= this.asOf) return;
    const prefix = this.routes.fold(event) ?? event.data.prefix;
    if (typeof prefix === "string") this.check(prefix);
    this.sink.changed();
  }

  seen() {
    clearTimeout(this.leaving);
    if (document.hidden) {
      this.leaving = setTimeout(() => this.stream?.close(), HIDDEN_MS);
    } else if (this.stream?.readyState === EventSource.CLOSED) this.follow(this.last);
  }

  // -- the table -----------------------------------------------------------------------------------------------

  /** An event does not say all of a row: ask for it. */
  check(prefix) {
    this.touched.add(prefix);
    this.checking ??= setTimeout(() => this.verify(), SETTLE_MS);
  }

  async verify() {
    const prefixes = [...this.touched];
    this.touched.clear();
    if (prefixes.length > FEW) this.reload();
    else {
      for (const prefix of prefixes) {
        try {
          const { routes } = await get(`v1/routes?covering=${encodeURIComponent(prefix)}`, PATIENCE_MS);
          for (const row of routes) this.routes.put(row);
          if (!routes.some((it) => it.prefix === prefix)) this.routes.delete(prefix);
        } catch {
          this.reload();
          break;
        }
      }
      this.sink.changed();
    }
    this.checking = null;
    if (this.touched.size) this.check(this.touched.values().next().value);
  }

  /** The counts of the status and of the table must agree; if they stay apart, the table is read again. */
  compare({ status, targets }) {
    if (this.loading || !this.routes.loaded) return;
    const own = this.routes.phases();
    const differs = targets.some((target) =>
      [...new Set([...Object.keys(target.phases), ...Object.keys(own[target.name] ?? {})])].some(
        (phase) => (target.phases[phase] ?? 0) !== (own[target.name]?.[phase] ?? 0),
      ),
    );
    const kept = this.routes.all.reduce((sum, it) => sum + (it.route !== null), 0);
    this.mismatches = differs || kept !== status.kernel.routes ? this.mismatches + 1 : 0;
    this.sink.behind(this.mismatches > 0);
    if (this.mismatches >= 3) this.reload();
    if (!this.mismatches) return;
    // No event tells of a route that goes before it was sent: ask at least for the few that are looked at.
    for (const prefix of this.sink.watched(FEW - this.touched.size)) this.check(prefix);
  }

  /** Read the table again soon, but not all the time. */
  reload() {
    this.waiting ??= setTimeout(() => this.load(), Math.max(0, this.loadAfter - Date.now()));
  }

  async load() {
    clearTimeout(this.waiting);
    this.waiting = null;
    if (this.loading) {
      this.again = true;
      return;
    }
    this.loading = true;
    this.mismatches = 0;
    const began = Date.now();
    const asOf = Date.parse(this.status.time);
    try {
      const { routes } = await get("v1/routes", 120_000);
      this.routes.load(routes);
      this.sink.behind(false);
      this.asOf = asOf;
      for (const event of this.history.events.filter((it) => it.time > asOf && it.data.prefix)) {
        this.check(event.data.prefix); // it came while the table was read
      }
      this.sink.changed();
    } catch {
      this.again = true;
    }
    this.loading = false;
    this.loadAfter = Date.now() + Math.max(LEAST_BETWEEN_LOADS_MS, 10 * (Date.now() - began));
    if (this.again) {
      this.again = false;
      this.reload();
    }
  }

  explain(text) {
    return get(`v1/explain?of=${encodeURIComponent(text)}`, 30_000);
  }
}

async function get(url, patience) {
  let response;
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(patience) });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "the daemon does not answer" : "the daemon is gone", {
      cause: error,
    });
  }
  if (!response.ok)
    throw new Error((await response.json().catch(() => ({}))).detail ?? `HTTP ${response.status}`);
  return response.json();
}
