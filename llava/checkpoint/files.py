"""Checkpoint files: from a folder or the Hugging Face hub, checked before anything heavy is done with them."""

import zipfile
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open

from conf.presets import refuse_unknown
from lab.base.errors import UserError
from lab.base.files import check_pointer
from lab.base.files import read_json as read_json_file
from lab.base.paths import home, is_folder

SMALL_FILES = ("*.json", "*.model", "*.jinja", "merges.txt")  # config, tokenizer, image processor
WHOLE = "name the folder that holds it beside the weights, or a hub name, owner/name"
# In the order in which transformers looks for them: one file or an index of shards, safetensors before pickled tensors.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def fetch(name: str, cache_dir: str | None = None, patterns: tuple[str, ...] = SMALL_FILES) -> Path:
    """The folder of a checkpoint: `name` itself if it is one, else a snapshot of that hub repository's matching files.

    Downloads go to `cache_dir`, or to HF_HUB_CACHE / HF_HOME when it is None.

    Raises:
        UserError: no such folder or repository, no access, no connection and nothing in the cache, or a small file that
            is only a git-lfs pointer.
    """
    if is_folder(name):
        folder = home(name)
        for path in sorted(path for pattern in SMALL_FILES for path in folder.glob(pattern)):
            check_pointer(path)
        return folder
    refuse_unknown(name)
    try:
        return Path(snapshot_download(name, cache_dir=cache_dir, allow_patterns=list(patterns)))
    except HFValidationError:
        raise UserError(
            f"No such checkpoint: {name} is neither a folder nor a hub name of the form owner/name"
        ) from None
    except GatedRepoError:
        raise UserError(
            f"{name} is gated: accept its licence on its page of the hub, then log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"No such checkpoint: {name} is neither a folder nor a repository of the hub (or a private one: "
            "`hf auth login`)"
        ) from None
    except Exception as error:  # a download fails in as many ways as there are libraries between here and the hub
        cached = try_to_load_from_cache(name, "config.json", cache_dir=cache_dir)
        if isinstance(cached, str):
            return Path(cached).parent
        where = cache_dir or constants.HF_HUB_CACHE
        raise UserError(
            f"{name} is not a folder here, not in the cache {where}, and cannot be downloaded ({_first_line(error)}); "
            f"with a connection, run: {download_command(name, cache_dir)}"
        ) from error


def fetch_weights(name: str, cache_dir: str | None = None) -> Path:
    """The folder of a checkpoint with its weights in it, every file of them whole.

    One of the two formats is downloaded.

    Raises:
        UserError: there are none, a shard is missing, or a file is truncated.
    """
    folder = fetch(name, cache_dir)
    hub = not is_folder(name)
    if hub:
        for pattern in ("model*.safetensors", "pytorch_model*.bin"):
            folder = fetch(name, cache_dir, (*SMALL_FILES, pattern))
            if any(folder.glob(pattern)):
                break
    try:
        for path in weight_files(folder):
            check_weight_file(path)
    except UserError as error:
        raise UserError(
            f"{error}; to get them, run: {download_command(name, cache_dir)}" if hub else str(error)
        ) from error
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the folder's weights. Raises UserError if there are none or shards are missing."""
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if found is None:
        raise UserError(
            f"{folder} holds no weights; expected one of {', '.join(WEIGHT_FILES)} (a projector or adapter alone "
            "needs model.base)"
        )
    if found.suffix != ".json":
        return [found]
    shards = sorted({folder / shard for shard in read_json(found).get("weight_map", {}).values()})
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing or not shards:
        raise UserError(
            f"{folder} lacks weight files that {found.name} lists: {listed(missing) if missing else 'it lists none'}"
        )
    return shards


def check_weight_file(path: Path) -> None:
    """Raises UserError if the file is truncated or only a git-lfs pointer; reads no more than its ends."""
    check_pointer(path)
    with path.open("rb") as stream:
        head = stream.read(32)
    try:
        if path.suffix == ".safetensors":
            safe_open(path, framework="pt")
            return
        whole = zipfile.is_zipfile(path) or (
            not head.startswith(b"PK") and len(head) == 32
        )  # torch before 1.6 wrote no zip
    except (SafetensorError, OSError):
        whole = False
    if not whole:
        raise UserError(f"{path} is truncated ({path.stat().st_size:,} bytes) or no weight file; download it again")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError if the file is missing, broken or something else."""
    try:
        content = read_json_file(path)
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} has no {path.name}, so it is no checkpoint of a kind known here; {WHOLE}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def download_command(name: str, cache_dir: str | None) -> str:
    """What to type to get a checkpoint into the cache."""
    return f"hf download {name}" + (f" --cache-dir {cache_dir}" if cache_dir else "")


def listed(names: list[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
