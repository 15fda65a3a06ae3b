"""Talk to a running Fluvial server over HTTP, as docs/api.md describes it."""

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, cast
from urllib.parse import quote, urlsplit

import httpx2

from fluvial.config import Settings
from fluvial.errors import FluvialError, InputError

Json = dict[str, Any]
TIMEOUT_S = 60.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServerError(FluvialError):
    """The server answered with an error, or not at all. `code` is the server's own."""

    status: ClassVar[int] = 502
    code = "server_error"


def connect(url: str | None, *, settings: Settings) -> "Client":
    """Make a client for the server at `url`, or where these settings put it, with their key."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return Client(choose_url(url, settings=settings), key=key)


def choose_url(url: str | None, *, settings: Settings) -> str:
    """Return `url`, or where `fluvial serve` listens under these settings."""
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is not an address; write http://HOST:PORT")
        return url.rstrip("/")
    if settings.port == 0:
        raise InputError("port 0 lets the system choose; give --url with the address of the server")
    # A server that listens everywhere is reached on loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


class Client:
    """One connection to a server. Every failure is a ServerError with one line for people."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        self.url = url
        local = urlsplit(url).hostname in LOOPBACK
        timeout = httpx2.Timeout(TIMEOUT_S, connect=3.0)
        # A proxy set for the outside world must not see requests to this machine.
        self._http = httpx2.Client(
            base_url=url,
            timeout=timeout,
            trust_env=not local,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: str | int) -> Json:
        """GET a JSON object."""
        return self._call("GET", path, params=query)

    def post(
        self, path: str, body: Json | None = None, *, timeout_s: float | None = TIMEOUT_S
    ) -> Json:
        """POST a JSON object; `timeout_s` None waits for as long as the server computes."""
        timeout = httpx2.Timeout(timeout_s, connect=3.0)
        return self._call("POST", path, json={} if body is None else body, timeout=timeout)

    def patch(self, path: str, body: Json) -> Json:
        """PATCH with a JSON object."""
        return self._call("PATCH", path, json=body)

    def delete(self, path: str) -> Json:
        """DELETE; the answer may be empty."""
        return self._call("DELETE", path)

    def upload(self, path: str, file: Path) -> Json:
        """POST a file as multipart. Raises InputError when it can't be opened."""
        try:
            with file.open("rb") as data:
                return self._call("POST", path, files={"file": (file.name, data)}, timeout=300)
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from None

    def upload_bytes(self, path: str, name: str, data: bytes, **query: str | int) -> Json:
        """POST bytes as a multipart file called `name`."""
        return self._call("POST", path, files={"file": (name, data)}, params=query, timeout=300)

    def download(self, path: str, **query: str | int) -> tuple[bytes, Mapping[str, str]]:
        """GET bytes, and the headers that came with them."""
        answer = self._send("GET", path, params=query, timeout=300)
        return answer.content, answer.headers

    def stream(self, path: str, body: Json) -> Generator[Json]:
        """POST and yield each Server-Sent Event's data until `[DONE]`; closing it disconnects."""
        # The first token may take long: a prompt is read, others are served first.
        timeout = httpx2.Timeout(None, connect=3.0)
        try:
            with self._http.stream("POST", path, json=body, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise _read_error(response)
                for event in httpx2.EventSource(response):
                    if event.data == "[DONE]":
                        return
                    yield _check_event(event.data)
        except (httpx2.HTTPError, httpx2.SSEError) as error:
            raise self._explain(error) from error

    def _call(self, method: str, path: str, **options: Any) -> Json:
        response = self._send(method, path, **options)
        if not response.content:
            return {}
        try:
            answer: object = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServerError(f"{self.url} did not answer with JSON; is that a Fluvial server?")
        return cast(Json, answer)

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise self._explain(error) from error
        if response.is_error:
            raise _read_error(response)
        return response

    def _explain(self, error: Exception) -> ServerError:
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return ServerError(
                f"no server answers at {self.url}; start one with `fluvial serve`", code="no_server"
            )
        why = str(error) or type(error).__name__
        return ServerError(f"the server at {self.url} stopped answering: {why}", code="lost_server")


def session_path(session: str, *rest: object) -> str:
    """Return the path of a session or of something in it; whatever the user typed is quoted."""
    return "/".join(["/v1/sessions", *(quote(str(step), safe="") for step in (session, *rest))])


def _check_event(data: str) -> Json:
    try:
        event: object = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise ServerError("the server sent an event that is not JSON")
    found = cast(Json, event)
    if "error" in found:
        raise _make_error(found["error"], status=500)
    return found


def _read_error(response: httpx2.Response) -> ServerError:
    try:
        return _make_error(response.json()["error"], status=response.status_code)
    except (ValueError, KeyError, TypeError):
        where = response.url.copy_with(query=None)
        return ServerError(
            f"{where} answered HTTP {response.status_code}; is that a Fluvial server?"
        )


def _make_error(error: object, *, status: int) -> ServerError:
    fields = cast(Json, error) if isinstance(error, dict) else {}
    message = fields.get("message") or f"the server answered HTTP {status}"
    return ServerError(str(message), code=str(fields.get("code") or "server_error"))
