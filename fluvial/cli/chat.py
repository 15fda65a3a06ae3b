"""`fluvial chat [SESSION]`: talk in the terminal, in the same sessions as on the page."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluvial.cli.option import load_settings, server_options
from fluvial.cli.terminal import clean, write_note
from fluvial.errors import FluvialError

if TYPE_CHECKING:
    from fluvial.cli.client import Client

HELP = """\
/read FILE   have this conversation read a file
/undo [N]    go back to version N (left out: the one before)
/freeze      stop learning          /unfreeze   learn again
/help        this list              /quit       leave (also Ctrl-D)
Ctrl-C stops an answer. A message that begins with / is written with two."""


@click.command()
@click.argument("session", required=False)
@click.option("-m", "--message", help="Send one message, print the answer, leave.")
@server_options
def chat(
    session: str | None, message: str | None, url: str | None, config_file: Path | None
) -> int:
    """Talk with the assistant. SESSION goes on with an earlier conversation."""
    settings = load_settings(config_file)
    from fluvial.cli.client import connect

    with connect(url, settings=settings) as client:
        talk = Conversation.open(client, session)
        if message is not None:
            return 0 if talk.say(message) else 130
        talk.run()
        return 0


class Conversation:
    """One session as the terminal sees it. `_last` is the id of the last message seen, or None."""

    def __init__(self, client: "Client", session: dict[str, Any], last: str | None) -> None:
        self._client = client
        self._id: str = session["id"]
        self._model: str = session["model"]
        self._last = last

    @classmethod
    def open(cls, client: "Client", session: str | None) -> "Conversation":
        """Begin a new session, or go on with one."""
        from fluvial.cli.client import session_path

        if session is None:
            return cls(client, client.post("/v1/sessions"), None)
        found = client.get(session_path(session))
        messages = client.get(session_path(session, "messages"))["data"]
        return cls(client, found, messages[-1]["id"] if messages else None)

    def run(self) -> None:
        """Read messages and commands until the end of input."""
        _load_line_editing()
        write_note(f"{self._model}, session {self._id}; /help lists the commands")
        while (text := self._prompt()) is not None:
            try:
                if not self._handle(text.strip()):
                    return
            except FluvialError as error:
                write_note(f"error: {error.message}")
                self._catch_up()
            except KeyboardInterrupt:
                write_note("stopped")

    def say(self, text: str) -> bool:
        """Send one message and print the answer as it comes; tell whether it came to its end.

        Ctrl-C stops the answer, here and in the server.
        """
        stopped = False
        began_s = time.monotonic()
        final: dict[str, Any] = {}
        usage: dict[str, Any] = {}
        chunks = self._client.stream("/v1/chat/completions", self._body(text))
        try:
            for chunk in chunks:
                final = chunk.get("fluvial") or final
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices") or []:
                    click.echo(clean(choice["delta"].get("content") or ""), nl=False)
        except KeyboardInterrupt:
            stopped = True
        finally:
            chunks.close()
            click.echo()
        if stopped:
            self._stop()
            write_note("(stopped)")
        _tell_guard(final.get("guard"))
        self._last = final.get("message") or self._look_up_last()
        self._sign(final, usage, time.monotonic() - began_s)
        return not stopped

    def _prompt(self) -> str | None:
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            write_note("\n/quit or Ctrl-D leaves")
            return ""

    def _handle(self, text: str) -> bool:
        """Do what one line says; False means leave."""
        if not text.startswith("/") or text.startswith("//"):
            if text:
                self.say(text.removeprefix("/"))
            return True
        command, _, rest = text.partition(" ")
        match command:
            case "/quit" | "/exit":
                return False
            case "/read":
                self._read(rest.strip())
            case "/undo":
                self._undo(rest.strip())
            case "/freeze" | "/unfreeze":
                self._set_learning("frozen" if command == "/freeze" else "on")
            case "/help":
                click.echo(HELP)
            case _:
                write_note(f"no command {command}\n{HELP}")
        return True

    def _read(self, file: str) -> None:
        from fluvial.cli.read import read_files

        if not file:
            write_note("/read needs a file")
            return
        read_files(self._client, self._id, [Path(file).expanduser()])

    def _undo(self, number: str) -> None:
        from fluvial.cli.version import restore

        if number and not number.isdecimal():
            write_note("/undo needs a version's number, or nothing")
            return
        version = restore(self._client, self._id, int(number) if number else None)
        write_note(f"version {version} is in force" + (" (the base)" if version == 0 else ""))

    def _set_learning(self, learning: str) -> None:
        from fluvial.cli.client import session_path

        self._client.patch(session_path(self._id), {"learning": learning})
        write_note(
            "frozen: it reads on, but learns nothing" if learning == "frozen" else "learning"
        )

    def _body(self, text: str) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "fluvial": {"session": self._id, "parent": self._last},
        }

    def _stop(self) -> None:
        from fluvial.cli.client import session_path

        self._client.post(session_path(self._id, "stop"))

    def _look_up_last(self) -> str | None:
        """Return the id of the last stored message."""
        from fluvial.cli.client import session_path

        messages = self._client.get(session_path(self._id, "messages"))["data"]
        return messages[-1]["id"] if messages else None

    def _catch_up(self) -> None:
        """After an error, take what is stored as seen: another writer may have moved on."""
        with suppress(FluvialError):
            self._last = self._look_up_last()

    def _sign(self, final: dict[str, Any], usage: dict[str, Any], elapsed_s: float) -> None:
        """Write under the answer which version gave it, and what it took."""
        version = final.get("version")
        words = [] if version is None else [f"version {version}" if version else "base"]
        count = usage.get("completion_tokens")
        if count:
            words.append(f"{count} tokens, {count / max(elapsed_s, 1e-3):.0f}/s")
        words += [f"from {passage['name']}" for passage in final.get("passages") or []]
        if words and sys.stderr.isatty():
            click.secho(clean(f"[{' · '.join(words)}]"), dim=True, err=True)
        elif words:
            write_note(f"[{' · '.join(words)}]")


def _tell_guard(guard: dict[str, str] | None) -> None:
    """Say what the guard kept back; a refusal has been printed as the answer already."""
    if guard is None:
        return
    if guard["action"] == "stop":
        write_note(f"(stopped by the guard: {guard['category']}) {clean(guard['message'])}")
    else:
        done = "refused" if guard["action"] == "refuse" else "masked in parts"
        write_note(f"({done} by the guard: {guard['category']})")


def _load_line_editing() -> None:
    """Give input() line editing and history, where Python has it."""
    with suppress(ImportError):
        import readline

        readline.set_auto_history(True)
