"""The operator's commands beside `init` and `run`, one sub-app each.

    auditors list the auditor peers, name one
    audit    calibrate the thresholds of audits
    data     rows: generate, stats, inspect, import, export, index
    db       bring the database to the newest revision, move it
    ledger   verify, export and prove what the ledger says
    shared   options, folder and database, progress bars

Each module imports what it needs when a command runs: `--help` stays fast.
"""
