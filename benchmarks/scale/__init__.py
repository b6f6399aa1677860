"""A whole swarm in one process, on the real protocol code and in played time.

    loop.py    an event loop whose time jumps; counts the processor time of each role
    links.py   records, blobs and messages over modelled lines; counts bytes
    world.py   the real coordinator's rounds, real sessions of peers, churn
    measure.py what a run comes to

Played are the time, the lines, the DHT (one dictionary, see `links`) and the training (a vector is
made, and takes as long as the peer's speed says). Everything else is the program's own code: the
sessions and their disks, the commit desk, the book, the store, the judge, the exchange, the clock.
"""
