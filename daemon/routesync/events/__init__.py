"""Events, and how subscribers get them: models, their envelope, the hub, the outbox, MQTT.

The models in `routesync.events.models` are the one source of the contract. Everything else here carries them: the hub
numbers them, the outbox keeps them until the broker has them, the publisher sends them, the AsyncAPI document and the
JSON Schemas are generated from them.

Concurrency: one event loop. `EventSink.emit` is called on it, never blocks and never raises; a sink that has to wait
(for a disk, for a broker) waits behind a bounded queue of its own, and counts what does not fit.
"""
