"""HTTPS in front of the coordinator's API, as a network on the internet has it: a reverse proxy.

    python -m benchmarks.lab.front CERTIFICATE PORT TARGET_PORT     (the lab starts it)

It ends TLS, names the caller in `X-Forwarded-For`, and passes everything else on as it is. The
certificate is made for one run and its address; peers are told of it by SSL_CERT_FILE.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import signal
import ssl
import sys
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

MAX_BODY_BYTES: Final = 1 << 20  # nginx's default: a proxy that lets more pass would hide a fault
VALID_DAYS: Final = 2
_OF_ONE_HOP: Final = frozenset(
    name.lower()
    for name in (
        hdrs.CONNECTION,
        hdrs.KEEP_ALIVE,
        hdrs.TRANSFER_ENCODING,
        hdrs.TE,
        hdrs.TRAILER,
        hdrs.UPGRADE,
        hdrs.CONTENT_LENGTH,
    )
)
_CLIENT: Final = web.AppKey("client", aiohttp.ClientSession)
_TARGET: Final = web.AppKey("target", str)


def make_certificate(address: str, path: Path) -> Path:
    """Write a key and a certificate for an IP address that signs itself; return `path`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ares-lab")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.touch(mode=0o600)
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path


async def _forward(request: web.Request) -> web.StreamResponse:
    """Pass one request on and its answer back."""
    headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _OF_ONE_HOP]
    headers.append(("X-Forwarded-For", request.remote or ""))
    url = URL(request.app[_TARGET] + request.raw_path, encoded=True)
    body = await request.read()
    try:
        answer = await request.app[_CLIENT].request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        )
    except aiohttp.ClientError:
        raise web.HTTPBadGateway from None
    async with answer:
        response = web.StreamResponse(status=answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _OF_ONE_HOP:
                response.headers.add(name, value)
        response.content_length = answer.content_length
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            async for data in answer.content.iter_chunked(65_536):
                await response.write(data)
            await response.write_eof()
        return response


def create_front(target: str, client: aiohttp.ClientSession) -> web.Application:
    """Return the proxy to `target`, a URL without a path."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[_TARGET], app[_CLIENT] = target, client
    app.router.add_route("*", "/{path:.*}", _forward)
    return app


async def serve(certificate: Path, *, port: int, target_port: int) -> None:
    """Serve until SIGTERM."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        app = create_front(f"http://127.0.0.1:{target_port}", client)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "0.0.0.0", port, ssl_context=context).start()
            print(json.dumps({"ready": True}), flush=True)
            await stop.wait()
        finally:
            await runner.cleanup()


def main() -> int:
    """Run the proxy; return the exit code."""
    certificate, port, target_port = sys.argv[1:]
    asyncio.run(serve(Path(certificate), port=int(port), target_port=int(target_port)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
