"""Composes every layer below into what people use. The only code that knows them all.

`Service` is the face; `start.open_service` builds a real one. The layers are joined through the
small protocols in `protocol`, so that each can be replaced by a double in a test.
"""

from fluvial.service.service import Service

__all__ = ["Service"]
