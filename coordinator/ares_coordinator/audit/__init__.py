"""Whether the work was done: `worker` replays it in a child process, `queue` decides what is paid.

Audits run beside the rounds at low priority and never delay one.
"""
