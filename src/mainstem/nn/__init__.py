"""Torch blocks: heads, losses, pooling, LoRA."""
