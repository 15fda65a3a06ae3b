"""The HTTP application, and the process that serves it."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from fluvial import __version__
from fluvial.config import Settings
from fluvial.errors import FluvialError, InputError
from fluvial.server import (
    chat,
    error,
    event,
    exchange,
    health,
    model,
    page,
    publication,
    reading,
    session,
    version,
)
from fluvial.server.auth import check_exposure, identify, is_loopback, open_route
from fluvial.server.edge import Edge
from fluvial.service import Service
from fluvial.service.exposure import record_start, record_stop

SHUTDOWN_S = 2
"""How long answers and streams may take to end before they are cut off."""


def create_app(service: Service) -> FastAPI:
    """Make the application around a service, which stays the caller's to close."""

    @contextlib.asynccontextmanager
    async def run(_: FastAPI) -> AsyncGenerator[None]:
        service.start()
        yield
        await service.drain()

    app = FastAPI(
        title="Fluvial",
        version=__version__,
        lifespan=run,
        dependencies=[Depends(identify)],
        docs_url=None,  # both load scripts from another origin
        redoc_url=None,
        openapi_url=None,  # served below, as a route like all others
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(Edge, loopback_only=is_loopback(service.settings.host))
    app.add_exception_handler(FluvialError, error.handle_fluvial)
    app.add_exception_handler(HTTPException, error.handle_http)
    app.add_exception_handler(RequestValidationError, error.handle_validation)
    for part in (
        chat,
        model,
        session,
        reading,
        exchange,
        publication,
        version,
        event,
        health,
    ):
        app.include_router(part.router)
    app.include_router(page.make_router())
    app.add_api_route("/openapi.json", show_openapi, include_in_schema=False)
    return app


@open_route
async def show_openapi(request: Request) -> dict[str, Any]:
    """Describe the API."""
    return request.app.openapi()


def serve(
    settings: Settings,
    *,
    announce: Callable[[str], None] = print,
    on_build: Callable[[float], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    The port is taken first, so that a clash is told at once and not after the model has loaded. The
    learner may still be starting when the first request is answered. `announce` gets one line with
    the address when the server is ready; `on_build` hears the share done of a graph that must be
    built first. Raises FluvialError for what keeps it from starting.
    """
    from fluvial.service.start import open_service

    check_exposure(settings)
    with bind(settings) as listener:
        service = open_service(settings, on_build=on_build)
        try:
            server = _Server(create_app(service), service=service, listener=listener)
            server.announce = announce
            record_start(service.audit, settings, model=service.model)
            server.run(sockets=[listener])
            record_stop(service.record, model=service.model.name)
        finally:
            service.close()


def bind(settings: Settings) -> socket.socket:
    """Take the port. Raises InputError when it is in use or may not be used."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
    except OSError as failure:
        listener.close()
        raise InputError(
            f"can't listen on {settings.host} port {settings.port}: {failure.strerror or failure}; "
            "choose another with --port (0: any free one) or --host",
            param="port",
        ) from None
    return listener


class _Server(uvicorn.Server):
    """Uvicorn; ends event streams before it waits for connections, and survives its signals."""

    def __init__(self, app: FastAPI, *, service: Service, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_S,
                lifespan="on",
            )
        )
        host, port = listener.getsockname()[:2]
        self.address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.announce: Callable[[str], None] = lambda _: None
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.announce(f"Fluvial is ready at {self.address} with {self._service.model.name}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._service.drain(), timeout=SHUTDOWN_S)
        await super().shutdown(sockets=sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        # Uvicorn would raise the signal again at the end, and kill us before the store is closed.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._stop) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit = True
