"""Poison alarms: a round that makes the model worse beyond noise, and who was it.

    noise    is a state worse than the one before it, and does leaving something out mend it
    bisect   which contributions have to go, in few questions
    remake   a round's judgement without some of its contributions
    past     a finished round, read back from the disk
    watch    looks at every new state beside the running round, searches, records what it found
    correct  what the next manifest says about it

A loss is an alarm, never a proof, and never touches anybody's pay: what is taken out is audited
like everything else, only for certain. Source: docs/adr/0006.
"""
