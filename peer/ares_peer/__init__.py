"""The volunteer's client. A map:

- `cli`: the commands `join`, `status`, `identity`, `version`; imports nothing heavy.
- `settings`: what a person may set, what the data directory remembers, what the trainer gets.
- `preflight`: what must be right before anything starts, each a coded error with the next command.
- `supervisor`: starts, watches and restarts the trainer; `processes`: nothing outlives its parent.
- `events`: the lines by which the trainer tells the supervisor what happens.
- `progress`: those events folded into one picture; `statusfile`: that picture on disk.
- `terminal`: the picture for the person in front of it; `runner`: the pieces of `join` together.
- `lock`, `hardware`: one process per data directory; what this machine is.
- `trainer`, `session`: the other process, which owns the DHT, the GPU and the training loop.
"""
