"""`/healthz` on loopback: whether the node lives, how many peers it sees, what it refused.

For load balancers and people; it shows no addresses and no peer ids but its own.
"""

from __future__ import annotations

import time

from aiohttp import web

from ares_p2p.errors import NetworkFault
from ares_p2p.network.node import Node

ANSWER_TIMEOUT_S = 3.0


async def start_health(node: Node, *, port: int) -> tuple[web.AppRunner, int]:
    """Serve `/healthz` on 127.0.0.1 and return the runner and the port."""
    app = web.Application()
    app.router.add_get("/healthz", Health(node).answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    bound: int = runner.addresses[0][1]
    return runner, bound


class Health:
    """Answers for one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._started_s = time.monotonic()

    async def answer(self, _request: web.Request) -> web.Response:
        """Return 200 and what the node says of itself, 503 when it cannot answer."""
        node = self._node
        answer = {
            "status": "ok",
            "role": node.role,
            "peer_id": node.peer_id,
            "network_id": node.network.network_id,
            "uptime_s": round(time.monotonic() - self._started_s, 1),
        }
        try:
            peers = await node.call(node.p2p.list_peers(), timeout_s=ANSWER_TIMEOUT_S)
            answer["connected_peers"] = len({peer.peer_id for peer in peers})
            answer["refused_records"] = await node.refusals()
        except NetworkFault as error:
            answer |= {"status": "failing", "code": error.code, "message": error.message}
            return web.json_response(answer, status=503)
        return web.json_response(answer)
