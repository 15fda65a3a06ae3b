"""Debian's Chromium, driven by Playwright, against a server of ours."""

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_DROP = """
([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  for (const kind of ['dragenter', 'dragover', 'drop']) {
    const event = new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
  }
}
"""


@dataclass
class Visit:
    """One open page, and what went past it."""

    page: Page
    addresses: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def drop_file(self, path: Path) -> None:
        """Drop a file onto the page as from a file manager."""
        self.page.evaluate(_DROP, [path.name, base64.b64encode(path.read_bytes()).decode()])


def find_chromium() -> str | None:
    """Return the browser's path: CHROMIUM, else Debian's or another on the PATH."""
    given = os.environ.get("CHROMIUM")
    return given or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def open_page(
    url: str, *, width: int = 1280, height: int = 860, dark: bool = False, language: str = "en-GB"
) -> Iterator[Visit]:
    """Open `url` in a new browser with an empty profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            locale=language,
        )
        visit = Visit(context.new_page())

        def note_request(request: Request) -> None:
            visit.addresses.append(request.url)

        def note_message(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                visit.complaints.append(message.text)

        visit.page.on("request", note_request)
        visit.page.on("console", note_message)
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.goto(url)
        yield visit
        browser.close()
