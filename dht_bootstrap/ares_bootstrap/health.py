"""`/healthz` on loopback: whether the node lives, how many peers it sees, what it refused.

For load balancers and people; it shows no addresses and no peer ids but its own.
"""

from __future__ import annotations

import time

from aiohttp import web

from ares_p2p.errors import NetworkFault
from ares_p2p.network.node import Node

ANSWER_TIMEOUT_S = 3.0
_NODE = web.AppKey("node", Node)
_STARTED_S = web.AppKey("started_s", float)


async def start_health(node: Node, *, port: int) -> tuple[web.AppRunner, int]:
    """Serve `/healthz` on 127.0.0.1 and return the runner and the port."""
    app = web.Application()
    app[_NODE] = node
    app[_STARTED_S] = time.monotonic()
    app.router.add_get("/healthz", _healthz)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    bound: int = runner.addresses[0][1]
    return runner, bound


async def _healthz(request: web.Request) -> web.Response:
    node = request.app[_NODE]
    answer = {
        "status": "ok",
        "role": node.role,
        "peer_id": node.peer_id,
        "network_id": node.network.network_id,
        "uptime_s": round(time.monotonic() - request.app[_STARTED_S], 1),
    }
    try:
        peers = await node.call(node.p2p.list_peers(), timeout_s=ANSWER_TIMEOUT_S)
        answer["connected_peers"] = len({peer.peer_id for peer in peers})
        answer["refused_records"] = await node.refusals()
    except NetworkFault as error:
        answer |= {"status": "failing", "code": error.code, "message": error.message}
        return web.json_response(answer, status=503)
    return web.json_response(answer)
