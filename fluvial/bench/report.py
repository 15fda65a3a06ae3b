"""The document that shows profiles: written by a command, one part for each model."""

import re
from collections.abc import Mapping

from fluvial.bench.profile import BETWEEN, OUTSIDE, WHOLE, Profile
from fluvial.errors import InputError

BEGIN, END = "<!-- profiles: written by the command, not by hand -->", "<!-- end of profiles -->"
_LAST = (BETWEEN, OUTSIDE, WHOLE)
_CELL = re.compile(r"([\d,]+) µs(?: \((\d+)%\))?")


def update(document: str, profile: Profile) -> str:
    """Return `document` with the part of the profile's model replaced, or added as the last.

    Raises InputError when the document has no place for profiles.
    """
    before, body, after = _split(document)
    profiles = {each.model: each for each in parse(body)} | {profile.model: profile}
    parts = "\n\n".join(render(each) for each in profiles.values())
    return f"{before}{BEGIN}\n\n{parts}\n\n{END}{after}"


def read(document: str) -> list[Profile]:
    """Return the profiles in a document."""
    return parse(_split(document)[1])


def render(profile: Profile) -> str:
    """Write one model's part in Markdown: a heading, the place, a table."""
    scenarios = list(profile.times_us)
    lines = [
        f"### {profile.model}",
        "",
        f"{profile.place}.",
        "",
        "| operator | " + " | ".join(scenarios) + " |",
        "|---|" + "--:|" * len(scenarios),
    ]
    for operator in _list_operators(profile.times_us):
        cells = [_render_cell(profile.times_us[name], operator) for name in scenarios]
        lines.append(f"| {operator} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(text: str) -> list[Profile]:
    """Read what `render` wrote; whole microseconds are all that it keeps."""
    profiles: list[Profile] = []
    for part in re.split(r"^### ", text, flags=re.M)[1:]:
        model, place, *table = [line for line in part.splitlines() if line]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
        times: dict[str, dict[str, float]] = {name: {} for name in rows[0][1:]}
        for operator, *cells in rows[2:]:
            for name, cell in zip(times, cells, strict=True):
                found = _CELL.fullmatch(cell)
                if found is not None:
                    times[name][operator] = float(found[1].replace(",", ""))
        profiles.append(Profile(model=model, place=place.removesuffix("."), times_us=times))
    return profiles


def _list_operators(times_us: Mapping[str, Mapping[str, float]]) -> list[str]:
    """List all kinds of operators, the longest in the first scenario first, then what is around."""
    names = {name for times in times_us.values() for name in times} - set(_LAST)

    def rank(name: str) -> list[float]:
        return [-round(times.get(name, 0.0)) for times in times_us.values()]

    return [*sorted(sorted(names), key=rank), *_LAST]


def _render_cell(times_us: Mapping[str, float], operator: str) -> str:
    if operator not in times_us:
        return ""
    share = f" ({100 * round(times_us[operator]) / max(1, round(times_us[WHOLE])):.0f}%)"
    return f"{times_us[operator]:,.0f} µs" + (share if operator != WHOLE else "")


def _split(document: str) -> tuple[str, str, str]:
    before, begin, rest = document.partition(BEGIN)
    body, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"the document has no place for profiles: it needs the lines {BEGIN!r} and {END!r}"
        )
    return before, body, after
