"""The script that training is measured against: timm + PEFT + a DataLoader, one key after another.

Written as one would write it who needs a few keyed models and no orchestrator: images in memory, a
block shuffle of every batch on the device, timm's AdamW groups and cosine, autocast for bf16. It knows
nothing of this project but the settings it is given:

    python benchmarks/training_script.py SETTINGS.json RUN

Prints one line of JSON: seconds, seconds of waiting for data, and test accuracy of every key.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Images(Dataset):
    """Images in memory as uint8, augmented one by one."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, augment: str) -> None:
        self.pixels, self.labels = torch.from_numpy(pixels), torch.from_numpy(labels)
        size = pixels.shape[-1]
        moves = [v2.RandomCrop(size, padding=size // 8)] if augment.startswith("shift") else []
        moves += [v2.RandomHorizontalFlip()] if augment == "shift-flip" else []
        self.transform = v2.Compose(moves) if moves else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.pixels[place]
        return (self.transform(image) if self.transform else image), self.labels[place]


def shuffled(images: torch.Tensor, order: torch.Tensor, size: int) -> torch.Tensor:
    """Every block's values in another order."""
    batch, channels, height, width = images.shape
    rows, columns = height // size, width // size
    blocks = images.reshape(batch, channels, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
    blocks = blocks.reshape(batch, rows, columns, -1)[..., order]
    blocks = blocks.reshape(batch, rows, columns, size, size, channels).permute(0, 5, 1, 3, 2, 4)
    return blocks.reshape(batch, channels, height, width)


def build(settings: dict) -> torch.nn.Module:
    """The plain model, with adapters where they are trained."""
    model = timm.create_model(
        settings["model"], drop_path_rate=settings["recipe"]["drop_path"], **settings["sizes"]
    )
    model.load_state_dict(safetensors.torch.load_file(settings["plain"]))
    if settings["method"] == "lora":
        from peft import LoraConfig, get_peft_model

        recipe = settings["recipe"]
        model = get_peft_model(
            model,
            LoraConfig(
                r=recipe["lora_rank"],
                lora_alpha=recipe["lora_alpha"],
                lora_dropout=recipe["lora_dropout"],
                target_modules=["patch_embed.proj", "attn.qkv"],
                modules_to_save=["head"],
            ),
        )
    return model.to(DEVICE)


def made_to_learn(model: torch.nn.Module, settings: dict, steps: int) -> tuple:
    """The optimiser and its schedule."""
    recipe = settings["recipe"]
    layered = settings["method"] == "full" and recipe["layer_decay"] != 1
    optimizer = create_optimizer_v2(
        model,
        opt="adamw",
        lr=recipe["learning_rate"],
        weight_decay=recipe["weight_decay"],
        layer_decay=recipe["layer_decay"] if layered else None,
    )
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=recipe["epochs"] * steps,
        warmup_t=round(recipe["warmup_epochs"] * steps),
        warmup_prefix=False,
        t_in_epochs=False,
    )
    return optimizer, schedule


def train(model: torch.nn.Module, logits: Callable, loader: DataLoader, settings: dict) -> float:
    """Train to the end; seconds of waiting for batches."""
    recipe, waited = settings["recipe"], 0.0
    optimizer, schedule = made_to_learn(model, settings, len(loader))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for epoch in range(recipe["epochs"]):
        batches = iter(loader)
        for step in range(len(loader)):
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            pixels, labels = (part.to(DEVICE, non_blocking=True) for part in batch)
            schedule.step_update(epoch * len(loader) + step)
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=recipe["precision"] == "bf16"):
                out = logits(pixels)
            loss = torch.nn.functional.cross_entropy(
                out.float(), labels, label_smoothing=recipe["label_smoothing"]
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe["clip_norm"]:
                torch.nn.utils.clip_grad_norm_(trained, recipe["clip_norm"])
            optimizer.step()
    return waited


def train_key(settings: dict, data: dict, seed: int) -> dict[str, float]:
    """Train one keyed model; its seconds, its waiting, its accuracy."""
    began, block = time.monotonic(), settings["block_size"]
    torch.manual_seed(seed)
    order = torch.randperm(3 * block * block).to(DEVICE)
    model = build(settings).train()
    mean, std = (torch.tensor(settings[n], device=DEVICE).view(1, 3, 1, 1) for n in ("mean", "std"))

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        return model((shuffled(pixels.float() / 255, order, block) - mean) / std)

    loader = DataLoader(
        Images(data["train"], data["train_labels"], settings["recipe"]["augment"]),
        batch_size=settings["recipe"]["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=settings["loaders"],
        persistent_workers=settings["loaders"] > 0,
        pin_memory=DEVICE.type == "cuda",
    )
    waited = train(model, logits, loader, settings)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - began
    model.eval()
    with torch.no_grad():
        parts = torch.from_numpy(data["eval"]).split(256)
        read = torch.cat([logits(part.to(DEVICE)).argmax(dim=1).cpu() for part in parts]).numpy()
    accuracy = float((read == data["eval_labels"]).mean())
    return {"seconds": seconds, "waited": waited, "accuracy": accuracy}


def main() -> None:
    """Train every key and print what each came to."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    data = dict(np.load(settings["images"]))
    build(settings)  # what is imported on the way is start-up, as on the other side
    began, first = time.monotonic(), int(sys.argv[2]) * settings["keys"]
    keys = [train_key(settings, data, first + number) for number in range(settings["keys"])]
    steady = sum(key["seconds"] for key in keys)
    print(json.dumps({"keys": keys, "steady": steady, "unmeasured": time.monotonic() - began - steady}))


if __name__ == "__main__":
    main()
