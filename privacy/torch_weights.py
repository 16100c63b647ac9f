"""Weights that torch reads: their tensors, and a name for them that doesn't change with the file's or folder's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from understudy.shards.errors import UserError


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .bin file. Raises UserError where it can't be read."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises depends on where the damage is
        raise UserError(f"{path}: can't be read as weights ({type(error).__name__}); download it again") from None


def weights_name(states: Iterable[Mapping[str, Tensor]]) -> str:
    """A hash of all tensors by name: the same whatever the files are called, and in either format."""
    digests: dict[str, str] = {}
    for state in states:
        for name, tensor in state.items():
            digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            digests[name] = digest.hexdigest()
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()[:16]


def folder_name(folder: Path) -> str:
    """`weights_name` of a transformers model folder, whose weights may lie in several files."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return weights_name(map(read_state, files))
