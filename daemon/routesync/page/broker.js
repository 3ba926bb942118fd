// The broker, over MQTT in WebSockets, by mqtt.js. Credentials are in memory only, and gone with the page.

import mqtt from "./mqtt.js";
import { read } from "./topics.js";

const SEEN = 2000; // events that are remembered
const REFUSED = new Set([4, 5, 134, 135, 138]); // CONNACK of 3.1.1 and 5: by whom or from where, not when

export class Broker {
  /** `sink` has connection(live, text), refused(text) and denied(topic). */
  constructor({ url, root, username, password }, sink) {
    this.root = root;
    this.sink = sink;
    this.listeners = new Set();
    this.wanted = new Map(); // topic to the number of those who want it
    this.seen = new Set(); // the last events: one that two subscriptions match comes twice
    this.client = mqtt.connect(url, {
      protocolVersion: 5,
      clientId: `routesync-page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`,
      username: username || undefined,
      password: password || undefined,
      clean: true,
      reconnectPeriod: 2000,
      connectTimeout: 10_000,
      resubscribe: true,
      timerVariant: "native", // no worker: the page's policy permits none
      // A default mosquitto queues 1,000 messages, and drops more than 1,000 packets of a WebSocket: this many may be
      // under way besides. For more nodes it needs max_queued_messages 0; see FleetView.doubt.
      properties: { receiveMaximum: 900 },
    });
    let lost = "no connection: no broker takes WebSockets at this URL, or it does not answer";
    this.client.on("connect", () => {
      lost = "the connection to the broker is lost";
      this.trouble = null;
      sink.connection(true, "connected");
    });
    this.client.on("close", () => sink.connection(false, this.trouble ?? lost));
    this.client.on("error", (error) => this.failed(error));
    this.client.on("message", (topic, payload, packet) => {
      const message = read(root, topic, payload);
      if (!message) return;
      message.left = packet.properties?.messageExpiryInterval;
      message.retained = packet.retain;
      if (message.part === "event" && message.event && this.isAgain(`${message.node}/${message.event.id}`))
        return;
      for (const it of this.listeners) it(message);
    });
  }

  isAgain(id) {
    if (this.seen.has(id)) return true;
    this.seen.add(id);
    if (this.seen.size > SEEN) this.seen.delete(this.seen.values().next().value);
    return false;
  }

  failed(error) {
    this.trouble = `the broker: ${error.message || "it cannot be reached"}`;
    if (REFUSED.has(error.code)) {
      this.end();
      this.sink.refused(this.trouble);
    } else this.sink.connection(false, this.trouble);
  }

  /** Subscribe, and call with each message; returns what ends it. */
  subscribe(topics, listener) {
    this.listeners.add(listener);
    for (const topic of topics) this.wanted.set(topic, (this.wanted.get(topic) ?? 0) + 1);
    // subscribed again, whether another one wants it or not: so the retained messages come again
    const all = Object.fromEntries(topics.map((it) => [it, { qos: 1, nl: false, rap: false, rh: 0 }]));
    this.client.subscribe({ resubscribe: true, ...all }, (error, granted) => {
      const denied = granted?.find((it) => it.qos >= 128);
      if (denied) this.sink.denied(denied.topic);
    });
    return () => {
      if (!this.listeners.delete(listener)) return;
      for (const topic of topics) {
        const left = this.wanted.get(topic) - 1;
        if (left) this.wanted.set(topic, left);
        else {
          this.wanted.delete(topic);
          this.client.unsubscribe(topic);
        }
      }
    };
  }

  /** All parts of tables that come of these topics, until `take` returns true or none has come for a while. */
  gather(topics, take) {
    return new Promise((resolve, reject) => {
      if (!this.client.connected) throw new Error("there is no connection to the broker");
      const lost = () => end(reject, new Error("the connection to the broker was lost"));
      const end = (settle, value) => {
        stop();
        this.client.off("close", lost);
        clearTimeout(last);
        clearTimeout(quiet);
        settle(value);
      };
      this.client.on("close", lost);
      const last = setTimeout(end, 60_000, resolve);
      let quiet = setTimeout(end, 2000, resolve);
      const stop = this.subscribe(topics, (message) => {
        if (message.part !== "table" && message.part !== "manifest") return;
        clearTimeout(quiet);
        if (take(message)) end(resolve);
        else quiet = setTimeout(end, 700, resolve);
      });
    });
  }

  end() {
    this.client.end(true);
  }
}
