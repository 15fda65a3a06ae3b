"""Every error Fluvial raises on purpose, as one tree.

    FluvialError
    ├── InputError              400  the request can't be honoured as written
    │   ├── ContextLengthError  400  more tokens than fit; says how many and what fits
    │   ├── UnsupportedError    400  a field or value that Fluvial does not implement
    │   └── TooLargeError       413  a body, file or text over its limit
    ├── AuthError               401  no key was given, or not the right one
    ├── ForbiddenError          403  a caller or an origin that is not let in
    ├── NotFoundError           404  no such session, model, reading or version
    ├── ConflictError           409  the state moved on, or is busy
    ├── ModelError              422  a model file is damaged, unknown or unsupported
    ├── SourceError             502  a model source did not deliver what was asked
    ├── StorageError            507  the disk refused a write
    ├── BusyError               429  no more work can be taken now; says when to try again
    ├── EngineError             500  the decoder failed on one answer; the engine goes on
    ├── ReleaseError            403  a release that is not valid, or not for what is served
    │   └── ReleaseEndedError   503  the release of what is served has come to its end
    ├── GuardError              500  a check of the guard failed; nothing more is shown
    └── LearnerError            500  the learner process failed; the session itself is intact

Each carries a message for people (what was wrong, what would be right), a stable `code` for
programs and, where one field is to blame, its name in `param`. The server maps `status` to HTTP.
"""

from typing import ClassVar


class FluvialError(Exception):
    """Base of the tree; never raised itself."""

    status: ClassVar[int] = 500
    code: str = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InputError(FluvialError):
    status = 400
    code = "invalid_request"


class ContextLengthError(InputError):
    code = "context_length_exceeded"


class UnsupportedError(InputError):
    code = "unsupported"


class TooLargeError(InputError):
    status = 413
    code = "too_large"


class AuthError(FluvialError):
    status = 401
    code = "invalid_api_key"


class ForbiddenError(FluvialError):
    status = 403
    code = "forbidden"


class NotFoundError(FluvialError):
    status = 404
    code = "not_found"


class ConflictError(FluvialError):
    status = 409
    code = "conflict"


class ModelError(FluvialError):
    status = 422
    code = "model_error"


class SourceError(FluvialError):
    status = 502
    code = "source_error"


class StorageError(FluvialError):
    status = 507
    code = "storage_full"


class BusyError(FluvialError):
    """`retry_after_s` is the time after which it is worth while to try again, 1 or more."""

    status = 429
    code = "busy"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float = 1.0,
    ) -> None:
        super().__init__(message, code=code, param=param)
        self.retry_after_s = max(1.0, retry_after_s)


class EngineError(FluvialError):
    status = 500
    code = "engine_failed"


class ReleaseError(FluvialError):
    status = 403
    code = "release_invalid"


class ReleaseEndedError(ReleaseError):
    status = 503
    code = "release_expired"


class GuardError(FluvialError):
    status = 500
    code = "guard_failed"


class LearnerError(FluvialError):
    status = 500
    code = "learner_failed"
