"""From a teacher to a dataset.

teacher.py     what a teacher is
procedural/    the teacher that ships: verified tasks by program
filters.py     duplicates and contamination
pipeline.py    generate -> verify -> filter -> split

A teacher that is asked over the network, against payment:

apikey.py      where its key comes from
plans/         what to ask for: pools of our own words, a choice that fills the gaps
prompts.py     the words in which it is asked; judge.py: for scores
flows.py       which questions make a conversation, and what is checked
asks.py        a question as a value, its parameters, its key; schemas.py: the JSON it must give
requests.py    the desk: every request in the ledger first, nothing paid twice; answers.py: usable?
budget.py      prices and caps; promptcache.py: whether caching pays
pacing.py      how many at once, and who waits
opus.py        the client, the only module that knows the SDK; replies.py: what comes back
authoring.py   a run: waves of seeds, rows; authored.py: what it gives
estimates.py   what a run will cost
"""
