"""Whether the work was done: `worker` replays it in a child process, `queue` decides what is paid.

Audits run beside the rounds at low priority and never delay one.

Auditor peers replay as well: `assignments` asks them, `reception` takes what they report, `auditors`
is the queue's view of it, `rulings` says what a report is worth, `decoys` tests them.
"""
