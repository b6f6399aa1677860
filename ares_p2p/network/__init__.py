"""What leaves this process: the Hivemind DHT, blobs between peers, messages to the coordinator.

- `invite`: how a network is found; `addresses`, `joining`: ports, reachability, clocks.
- `record_keys`, `record_rules`, `record_guard`: what lies where in the DHT and who may write it;
  `records` is the interface, `records_dht` the one implementation, over hivemind
  (`records_hivemind`) or memory (`records_memory`); `republish` what is stored again.
- `blobs`: content-addressed exchange; `blob_store` is the disk, `blob_fetch` a download,
  `blob_serve` what others get, over hivemind (`blobs_hivemind`) or memory (`blobs_memory`).
- `control`: signed messages to the coordinator, over hivemind (`control_hivemind`) or memory.
- `http_client`, and `http_records`, `http_blobs`, `http_control` on it: the same three over HTTPS,
  through the coordinator's API, for peers whose P2P does not come through; `http_api` is what
  both sides of it agree on.
- `node`: the DHT process and p2pd of this process, and the three services on top; below it
  `dht_channel` (the way into the DHT process), `dht_process` (what runs there), `validator`,
  `death_watch`, `processes`, `p2pd_launcher` and `hivemind_fixes` (mends of hivemind 1.1.12).

Only `node` and the modules named after hivemind, the DHT or p2pd import hivemind, and torch with it.
"""
