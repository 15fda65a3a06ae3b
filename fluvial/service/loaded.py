"""What this server loaded, as digests: the subjects that a release must be about."""

from dataclasses import asdict

from fluvial.adapt.rule import Rule
from fluvial.config import Settings
from fluvial.gate.subject import NO_GUARD, digest_adaptation, digest_sampling, digest_tokenizer
from fluvial.model.built import hash_graph
from fluvial.model.opening import AnyCheckpoint
from fluvial.model.outline import OutlinedCheckpoint
from fluvial.model.template import Template

GRAPHS_FOLDER = "graphs"


def digest_loaded(
    settings: Settings,
    *,
    checkpoint: AnyCheckpoint,
    template: Template,
    guard: str,
    canary_sha256: str | None = None,
) -> dict[str, str]:
    """Return the digests of what answers are made with here; hashes the packed weights again.

    `guard` is `Guard.sha256`, empty where none runs. Call it once the model runs.
    """
    positions = min(settings.context_tokens, checkpoint.declaration.context_tokens)
    rule = Rule.from_settings(settings, checkpoint.declaration).fit(positions)
    subjects = {
        "weights": checkpoint.sha256,
        "tokenizer": digest_tokenizer(checkpoint),
        "template": template.sha256,
        "guard": guard or NO_GUARD,
        "sampling": digest_sampling(settings),
        "adaptation": digest_adaptation(
            rule=asdict(rule), settings=settings, canary_sha256=canary_sha256
        ),
    }
    if not isinstance(checkpoint, OutlinedCheckpoint):
        subjects["graph"] = hash_graph(
            checkpoint,
            cache_dir=settings.data_dir / GRAPHS_FOLDER,
            positions=positions,
            whole=settings.weights == "float32",
        )
    return subjects
