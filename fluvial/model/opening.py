"""Open a model: its weights, and what stands beside them, tokenizer and chat template."""

from pathlib import Path

from fluvial.errors import ModelError
from fluvial.model.checkpoint import Checkpoint, check_hash, open_checkpoint
from fluvial.model.outline import OutlinedCheckpoint, is_outlined, open_outlined
from fluvial.model.template import Template
from fluvial.model.tokenizer import Tokenizer

AnyCheckpoint = Checkpoint | OutlinedCheckpoint


def open_model(path: Path, *, sha256: str | None = None) -> AnyCheckpoint:
    """Open a model, checked against `sha256` when that is given.

    A folder of a family that no declaration covers comes as one that runs on transformers.
    Raises ModelError for a model that is damaged, incomplete or not supported.
    """
    if is_outlined(path):
        return open_outlined(path, sha256=check_hash(path, sha256))
    return open_checkpoint(path, sha256=sha256)


def open_tokenizer(checkpoint: AnyCheckpoint) -> Tokenizer:
    """Return the checkpoint's tokenizer; ModelError if it has more ids than the embedding."""
    if checkpoint.path.is_dir():
        tokenizer = Tokenizer.from_folder(checkpoint.path)
    else:
        tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
    rows = checkpoint.declaration.vocab_size
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the embedding only {rows} rows"
        )
    return tokenizer


def open_template(checkpoint: AnyCheckpoint) -> Template:
    """Return the chat template in the checkpoint."""
    if checkpoint.path.is_dir():
        return Template.from_folder(checkpoint.path)
    return Template.from_gguf(checkpoint.metadata)


def choose_first_token(tokenizer: Tokenizer) -> int:
    """Return the id that stands before a text, as in training.

    It is bos where the model wants one, else end-of-text (which separates documents), else bos.
    """
    if tokenizer.adds_bos and tokenizer.bos_id is not None:
        return tokenizer.bos_id
    found = tokenizer.marks.get("<|endoftext|>", tokenizer.bos_id)
    return found if found is not None else min(tokenizer.eos_ids)
