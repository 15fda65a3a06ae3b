"""The model being served, and which sessions belong to it."""

from dataclasses import dataclass

from fluvial.errors import ConflictError
from fluvial.types import ModelInfo, Session


@dataclass(frozen=True)
class Served:
    """The one model that answers here."""

    model: ModelInfo

    def has(self, session: Session) -> bool:
        """Tell whether a session belongs to this model."""
        return session.checkpoint == self.model.sha256

    def require(self, session: Session) -> None:
        """Raise ConflictError `model_not_served` for a session of another model."""
        if not self.has(session):
            raise ConflictError(
                f"this session belongs to the model {session.model}, and {self.model.name} is "
                f"served; start with --model {session.model}, or begin a new session",
                code="model_not_served",
            )
