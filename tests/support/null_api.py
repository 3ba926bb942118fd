"""A loxilb that does nothing, as fast as aiohttp can: what remains of a request is our own cost.

Run as `python null_api.py SOCKET`; writes to standard output the monotonic time at which each POST and DELETE arrived.
"""

from __future__ import annotations

import asyncio
import sys
import time

from aiohttp import web

OWN = {"destinationIPNet": "192.168.10.0/24", "flags": "Self", "gateway": "", "protocol": "unspec"}


class NullApi:
    """Answers as a loxilb on another host would that has whatever it was given."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, str]] = []
        self.rows: dict[str, str] = {}

    async def post(self, request: web.Request) -> web.Response:
        arrived = time.monotonic()
        body = await request.json()
        if body["destinationIPNet"] in self.rows:
            return web.json_response({"code": 409, "result": "file exists"}, status=409)
        self.rows[body["destinationIPNet"]] = body["gateway"]
        self.arrivals.append((arrived, body["destinationIPNet"]))
        return web.json_response({"result": "Success"})

    async def delete(self, request: web.Request) -> web.Response:
        prefix = f"{request.match_info['address']}/{request.match_info['length']}"
        self.arrivals.append((time.monotonic(), prefix))
        self.rows.pop(prefix, None)
        return web.json_response({"result": "Success"})

    async def routes(self, _request: web.Request) -> web.Response:
        rows = [
            {"destinationIPNet": prefix, "flags": "Ind", "gateway": gateway, "protocol": "static"}
            for prefix, gateway in self.rows.items()
        ]
        return web.json_response({"routeAttr": [OWN, *rows]})

    async def ports(self, _request: web.Request) -> web.Response:
        port = {
            "portName": "eth0",
            "portSoftwareInformation": {"osId": 99_999},
            "portHardwareInformation": {"macAddress": "02:00:00:00:00:01"},
        }
        return web.json_response({"portAttr": [port]})

    async def version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "0.9.8.8"})

    async def report(self, _request: web.Request) -> web.Response:
        arrivals, self.arrivals = self.arrivals, []
        return web.json_response(arrivals)

    def app(self) -> web.Application:
        app = web.Application()
        base = "/netlox/v1"
        app.router.add_post(f"{base}/config/route", self.post)
        app.router.add_delete(f"{base}/config/route/destinationIPNet/{{address}}/{{length}}", self.delete)
        app.router.add_get(f"{base}/config/route/all", self.routes)
        app.router.add_get(f"{base}/config/port/all", self.ports)
        app.router.add_get(f"{base}/version", self.version)
        app.router.add_get("/arrivals", self.report)
        return app


async def serve(path: str) -> None:
    runner = web.AppRunner(NullApi().app(), access_log=None)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
