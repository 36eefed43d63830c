"""Settings that adapters are trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from icl.attention import internals


def training_arguments(output_dir: str | Path, **overrides: Any) -> TrainingArguments:
    """Return the settings of the papers: AdamW at 5e-3 without weight decay, a cosine after 10 % of warm-up.

    Nothing is reported to a service. ``overrides`` are other fields of :class:`transformers.TrainingArguments`.

    >>> training_arguments("out", max_steps=400, per_device_train_batch_size=32).learning_rate
    0.005
    """
    settings = {
        "learning_rate": 5e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
    }
    return TrainingArguments(str(output_dir), **{**settings, **overrides})


def check_arguments(args: TrainingArguments) -> None:
    """Raise ``ValueError`` for settings that :class:`icl.training.DistillTrainer` cannot keep to."""
    refused = {
        "fsdp": "adapters are small and the base is frozen: use DDP, or device_map for a large base",
        "deepspeed": "adapters are small and the base is frozen: use DDP",
        "label_smoothing_factor": "the objective has no such term",
    }
    for name, reason in refused.items():
        if value := getattr(args, name):
            raise ValueError(f"DistillTrainer: {name} must not be set, got {value!r}: {reason}")
    if args.n_gpu > 1:
        raise ValueError(
            f"DistillTrainer: one process must have one GPU, and this one has {args.n_gpu}: start with torchrun "
            f"--nproc-per-node {args.n_gpu}, or show it one by CUDA_VISIBLE_DEVICES"
        )
    if (getattr(args, f"{internals.CHECKPOINTING}_kwargs") or {}).get("use_reentrant"):
        raise ValueError("DistillTrainer: use_reentrant must be False: all that is trained is inside frozen layers")
