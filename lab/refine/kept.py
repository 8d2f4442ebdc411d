"""What a SAM has seen of pictures, kept in files, so that another stage or run need not look again."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import write_atomic

MARK = "made"  # of a file's metadata


@dataclass(frozen=True)
class Kept:
    """A folder of embeddings, a file for each picture and SAM."""

    folder: Path
    sam: str  # tells its weights from any others

    @classmethod
    def of(cls, folder: Path, checkpoint: Path) -> "Kept":
        """For the SAM of a folder. Raises UserError if the folder cannot be made."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"refine.keep={folder}: cannot be made ({error.strerror}); name another folder") from None
        files = sorted(path for path in checkpoint.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
        told = [(path.name, (status := path.stat()).st_size, status.st_mtime_ns) for path in files]
        return cls(folder, repr((str(checkpoint.resolve()), told)))

    def file(self, pixels: Tensor) -> Path:
        """Where the embeddings of a picture belong, by the pixels [1, 3, side, side] that the model takes."""
        digest = hashlib.blake2b(self.sam.encode("utf-8", "surrogatepass"), digest_size=16)
        digest.update(pixels.cpu().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()}.safetensors"

    def read(self, pixels: Tensor) -> dict[str, Any] | None:
        """The picture's embeddings, on the device of its pixels; None if they are not there, damaged or foreign."""
        file = self.file(pixels)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as content:
                told, tensors = content.metadata() or {}, {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        if told.get(MARK) != _mark(file, tensors):
            return None
        return _nested({name: value.to(pixels.device) for name, value in tensors.items()})

    def write(self, pixels: Tensor, embeddings: dict[str, Any]) -> None:
        """Raises NotWritten."""
        own = {name: value.detach().cpu().contiguous().clone() for name, value in _flat(embeddings)}
        file = self.file(pixels)
        write_atomic(file, save(own, {MARK: _mark(file, own)}))


def _mark(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Tells that the tensors of a file are those that were written into it under this name."""
    digest = hashlib.blake2b(file.name.encode(), digest_size=16)
    for name, value in sorted(tensors.items()):
        digest.update(repr((name, value.dtype, tuple(value.shape))).encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flat(embeddings: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """Lists as `name.0`, `name.1`, ..."""
    return [
        (name if one is value else f"{name}.{i}", one)
        for name, value in embeddings.items()
        for i, one in enumerate(value if isinstance(value, list) else [value])
    ]


def _nested(tensors: dict[str, Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {name: value for name, value in tensors.items() if "." not in name}
    numbered = sorted((name.partition(".")[0], int(name.partition(".")[2])) for name in tensors if "." in name)
    for name, i in numbered:
        found.setdefault(name, []).append(tensors[f"{name}.{i}"])
    return found
