"""The node that newcomers meet first: it knows others, keeps records, and relays.

- `cli`: the `ares-bootstrap` command.
- `node`: one run, from the lock on the data directory to the clean end.
- `health`: an HTTP port that says how it is.
"""
