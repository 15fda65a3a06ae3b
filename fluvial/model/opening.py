"""Open what stands beside a checkpoint's weights: its tokenizer and its chat template."""

from fluvial.errors import ModelError
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.template import Template
from fluvial.model.tokenizer import Tokenizer


def open_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
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


def open_template(checkpoint: Checkpoint) -> Template:
    """Return the chat template in the checkpoint."""
    if checkpoint.path.is_dir():
        return Template.from_folder(checkpoint.path)
    return Template.from_gguf(checkpoint.metadata)


def choose_first_token(tokenizer: Tokenizer) -> int:
    """Return the id that stands before a text: end-of-text, as in training, else bos."""
    found = tokenizer.marks.get("<|endoftext|>", tokenizer.bos_id)
    return found if found is not None else min(tokenizer.eos_ids)
