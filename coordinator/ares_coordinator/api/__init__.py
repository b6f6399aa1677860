"""The coordinator's HTTP API: what anybody may read, and the HTTPS way of peers into the swarm.

    app         the application: mountable under any path, or as a server of its own
    routes      one handler per path
    ledger      the same for the ledger's log: heads, proofs, postings
    swarm       what a peer does over HTTPS when its P2P does not come through
    body        of a request: bounded, and exactly what its worker signed
    parameters  of a request, each with its bounds
    reads       everything a reply needs from the store, read in one call to its thread
    present*    stored rows and the live snapshot become replies
    schemas*    the replies, as pydantic models; names that pages read are fixed
    views       what the API needs from the running coordinator
    edge        middlewares: one error shape, ETag, CORS, security headers
    errors      faults of a request

Reads are public and change nothing; what changes something is signed by the worker that asks for
it. Times are milliseconds since the epoch (UTC); credits are numbers for people, `...Ucredits` are
the exact integers (micro-credits).
"""
