"""What leaves this process: the Hivemind DHT, blobs between peers, messages to the coordinator.

- `invite`: how a network is found. `record_keys`, `record_rules`: what lies where in the DHT and
  who may write it. All three are pure and import neither torch nor hivemind.
- `node`: the DHT process of this process, its watch, and the three services on top of it:
  `records` (signed records and chunks), `blobs` (content-addressed exchange; `blob_store` is the
  disk, `blob_fetch` the download), `control` (signed messages to the coordinator).
- `validator`: the record rules as hivemind runs them; `hivemind_fixes`, `processes`: the mends
  and the process hygiene that hivemind 1.1.12 needs; `p2pd_launcher`: how p2pd is started.
- `records_memory`, `blobs_memory`: the same services without a network, for simulations.
"""
