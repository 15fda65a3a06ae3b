"""LoRAs that `peft` itself makes and saves."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

from tests.families import create_tiny

TARGETS = ["q_proj", "v_proj", "down_proj"]


def save_lora(name: str, folder: Path, **config: Any) -> PeftModel:
    """Save a random LoRA of the tiny model `name` and return the model with it."""
    wanted = {"r": 3, "lora_alpha": 5, "target_modules": TARGETS, **config}
    return save_peft(name, folder, LoraConfig(**wanted, task_type="CAUSAL_LM"))


def save_peft(name: str, folder: Path, config: PeftConfig) -> PeftModel:
    torch.manual_seed(0)
    model = get_peft_model(create_tiny(name), config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(0.3 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    return model
