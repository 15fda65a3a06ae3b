"""The chat page: the built files beside this module, each under its own route."""

import mimetypes
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, PlainTextResponse, Response

from fluvial.server.auth import open_route

FOLDER = Path(__file__).parent / "page"

MISSING = "The page is not built. `make web` builds it. The API works without it.\n"


def make_router(folder: Path = FOLDER) -> APIRouter:
    """Make a route for each file of the built page, and `/` for its index.

    Only files that are there now can ever be served, so no path reaches beyond the folder. Names
    below `assets/` hold a hash of their content and are kept for good; all else is asked for again.
    """
    router = APIRouter(include_in_schema=False)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    for path in files:
        name = path.relative_to(folder).as_posix()
        _add(router, f"/{name}", path)
        if name == "index.html":
            _add(router, "/", path)
    if not (folder / "index.html").is_file():
        router.add_api_route("/", open_route(_tell_missing), methods=["GET", "HEAD"])
    return router


def _add(router: APIRouter, route: str, path: Path) -> None:
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    lasting = route.startswith("/assets/")
    headers = {"cache-control": "public, max-age=31536000, immutable" if lasting else "no-cache"}

    async def show_file() -> Response:
        return FileResponse(path, media_type=media_type, headers=headers)

    # Braces would be read as a parameter; a built page has none in its names.
    if "{" not in route:
        router.add_api_route(route, open_route(show_file), methods=["GET", "HEAD"])


async def _tell_missing() -> Response:
    return PlainTextResponse(MISSING, status_code=404)
