"""What proves work, and what anybody can check of it.

sketch   a committed contribution against an auditor's replay of the same work
profile  what a contribution was computed on, and how two such profiles relate
thresholds  which distance is honest, per codec and relation; measured, see `calibration/`
price    what verified tokens are worth
ledger   the leaves of the ledger's Merkle log, and the pages in which they are published
export   the whole ledger in one file
evidence what a volunteer keeps of a round
check    the whole chain, from a commit to the log
"""
