"""Pages for the sequences that run: taken from kept prefixes when none are free."""

import logging

from fluvial.engine.prefix import Origin, PrefixStore
from fluvial.engine.protocol import Decoder
from fluvial.engine.sequence import Sequence
from fluvial.engine.spill_file import digest

log = logging.getLogger(__name__)


class Memory:
    """Gives sequences their caches and takes them back. One thread, the decoder's."""

    def __init__(self, decoder: Decoder, *, prefixes: PrefixStore) -> None:
        self._decoder = decoder
        self.prefixes = prefixes

    def start(self, row: Sequence, *, spare_pages: int, now_s: float) -> bool:
        """Give `row` a cache with room for all its tokens and one more; False when it must wait.

        `spare_pages` must stay free beside it, for others to grow into. What is known of its
        beginning is not computed again. Raises what the adapter's source raises.
        """
        row.ask_version()
        # The last token is always computed: its logits are what the answer goes on from.
        most_tokens = min(row.pure_tokens, len(row.tokens) - 1)
        row.cache = self.prefixes.fork(
            row.tokens, most_tokens=most_tokens, origin=origin_of(row), now_s=now_s
        )
        if row.cache is None:
            row.cache = self._decoder.new_cache()
        while not self._fits(row.cache, len(row.tokens) + 1, spare_pages):
            if not self.prefixes.drop_oldest():
                self.drop(row)
                return False
        if row.cached_tokens is None:
            row.cached_tokens = row.cache.length
        return True

    def grow(self, row: Sequence, tokens: int) -> bool:
        """Make room for `tokens` in all, at the cost of kept prefixes; False when none are left."""
        while not self._decoder.reserve(row.cache, tokens):
            if not self.prefixes.drop_oldest():
                return False
        return True

    def rewind(self, row: Sequence, length: int) -> None:
        """Take back what a failed step may have left; where that can't be known, everything."""
        restorable = self._decoder.restorable(row.cache, min(length, row.cache.length))
        if self._decoder.recurrent or restorable < length:
            self.drop(row)
        elif row.cache.length > length:
            self._decoder.truncate(row.cache, length)

    def drop(self, row: Sequence) -> None:
        """Take the cache of `row` away; it can be computed again."""
        if row.cache is not None:
            cache, row.cache = row.cache, None
            self._decoder.release(cache)

    def share(self, row: Sequence, *, now_s: float) -> None:
        """Keep what `row` has computed for those that share its beginning, while it goes on."""
        if row.pure_tokens < row.cache.length or not row.may_keep:
            return
        length = self._decoder.restorable(row.cache, row.cache.length - 1)
        if length > 0 and (self._decoder.free_pages or length % self._decoder.page_tokens == 0):
            shared = self._decoder.fork(row.cache, length)
            self.prefixes.keep(shared, origin=origin_of(row), now_s=now_s)

    def finish(self, row: Sequence, *, now_s: float) -> None:
        """Keep the cache of a row that has ended for the next turn, where one version made it."""
        if row.cache is not None and row.may_keep and 0 < row.cache.length <= row.pure_tokens:
            try:
                self._decoder.snapshot(row.cache)
            except Exception:
                log.exception("the end of an answer could not be kept")
            else:
                cache, row.cache = row.cache, None
                self.prefixes.keep(cache, origin=origin_of(row), now_s=now_s)
        self.drop(row)

    def _fits(self, cache: object, tokens: int, spare_pages: int) -> bool:
        enough = self._decoder.reserve(cache, tokens)
        return enough and self._decoder.free_pages >= spare_pages


def origin_of(row: Sequence) -> Origin:
    """Tell whose the cache of a row is."""
    return Origin(lane=digest(row.lane), owner=row.request.owner, key=row.key)
