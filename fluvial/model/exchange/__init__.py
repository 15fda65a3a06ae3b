"""Adapters in the formats of others: PEFT folders and GGUF LoRA files, out and in."""

from fluvial.model.exchange.gguf_lora import export_gguf, import_gguf
from fluvial.model.exchange.peft import export_peft, import_peft
from fluvial.model.exchange.term import Imported

__all__ = ["Imported", "export_gguf", "export_peft", "import_gguf", "import_peft"]
