"""Cut long texts where no token can reach across, so that one native call never takes long.

Whole documents in one native call would hold the interpreter's lock for seconds.
"""

import re
from collections.abc import Iterator

SEGMENT_CHARS = 16 * 1024
MAX_SEGMENT_CHARS = 2**20


def cut(text: str, *, at: re.Pattern[str]) -> Iterator[str]:
    """Yield `text` in segments of at least SEGMENT_CHARS characters, the last one excepted.

    `at` matches (with zero width) the places where the tokenizer always ends a token. Only a run
    of over MAX_SEGMENT_CHARS without such a place is cut anyway.
    """
    start = 0
    while len(text) - start > SEGMENT_CHARS:
        limit = start + MAX_SEGMENT_CHARS
        place = at.search(text, start + SEGMENT_CHARS, limit)
        end = place.start() if place else min(limit, len(text))
        yield text[start:end]
        start = end
    yield text[start:]
