"""The laboratory: a whole network of real processes behind home links, on one machine.

    python -m benchmarks.lab SCENARIO [--fast] [--json]

Each node (coordinator, bootstrap node, peers) lives in a network namespace of its own, with one
cable to a hub. tc shapes the cable both ways; every packet passes one process of ours that delays
it, loses it, or does not let it through. docs/lab.md says how to read what comes out.

    scenario    the TOML file: links, peers, events, what is expected
    spaces      namespaces, cables and rates; removes what a dead run left behind
    gate        who may dial whom, as a router with memory decides it
    wire        the process in the middle: delay, jitter, loss, cuts
    counters    bytes per cable, and the shares of them that belong to a round
    front       HTTPS in front of the coordinator's API
    network     real processes in the namespaces
    story       events: kills, cuts, other rates, late joiners
    record      what all processes said, with the time
    report      what it comes to: JSON
    pictures    what it comes to: pictures
    screen      what a person sees meanwhile
    runner      one scenario from its first namespace to the last
"""
