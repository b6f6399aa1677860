"""The volunteer's client. A map:

- `cli`: the commands `join`, `status`, `identity`, `version`; imports nothing heavy.
- `settings`: what a person may set, what the data directory remembers, what the trainer gets.
- `preflight`: what must be right before anything starts, each a coded error with the next command.
- `lock`, `hardware`: one process per data directory; what this machine is.
- `runner`: the pieces of `join` together, from settings to exit code.
- `supervisor`, `restarts`: start, watch and restart the trainer; when, and when no more.
- `events`, `eventreader`: the lines by which the trainer tells the supervisor what happens.
- `progress`, `statusfile`: those events folded into one picture; that picture on disk.
- `terminal`, `lines`, `summary`, `wording`: the picture for a person, or for a script.
- `auditor`, `auditsession`: the other role, which replays the work of others instead of training.
- `trainer`, `session` and what they import: the other process, which owns the DHT, the GPU and
  the training loop.
"""
