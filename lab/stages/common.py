"""What several stages share: the model, the folders, the picture and the record that a configuration names."""

import logging
import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from conf.schema import Config, Contrast, as_yaml
from lab.base.errors import UserError
from lab.base.files import MAX_ID_BYTES, check_id, write_atomic
from lab.base.paths import find, home
from lab.base.processes import processes
from lab.heads.choice import HeadChoice, head_choice
from lab.heads.files import warn_of_another_model
from lab.records.folder import find_record

if TYPE_CHECKING:  # the model's libraries take a second to import, and only stages that ask it need them
    from llava.family import LoadedModel

log = logging.getLogger(__name__)


def wants_generic(config: Config) -> bool:
    """Whether records shall hold the generic prompt's attention too."""
    return config.data.save_generic or config.logic.contrast != Contrast.none


def choice_of(config: Config) -> HeadChoice:
    """Which heads make the heat maps."""
    return head_choice(config.logic, config.model)


def load_model(config: Config) -> "LoadedModel":
    """The checkpoint that `model` names, on this process's device, with the attention asked for.

    Raises UserError if `logic.heads` names heads that the model does not have.
    """
    from lab.attention.capture import use_attention
    from llava.model.builder import load_from_config

    choice, device = choice_of(config), processes().device(device_name(config))
    loaded = load_from_config(config.model, name=str(find(config.model.name)), device=device)
    use_attention(loaded.model, config.model.attention)
    choice.fixed((loaded.num_layers, loaded.num_heads))
    warn_of_another_model(choice, loaded.name)
    return loaded


def device_name(config: Config) -> str:
    """`device`, with `device_id` put behind `cuda`."""
    if config.device_id is None or config.device == "cpu":
        return config.device
    if config.device not in ("auto", "cuda"):
        raise UserError(f"device={config.device} already names one device: leave out device_id={config.device_id}")
    return f"cuda:{config.device_id}"


# folders


def model_folder(config: Config) -> Path:
    """`<output_dir>/<model>`, where the records of a model lie."""
    return home(config.data.output_dir) / folder_name(config.model.name)


def folder_name(model: str) -> str:
    """`liuhaotian/llava-v1.5-7b` -> `liuhaotian-llava-v1.5-7b`; of a path the parts that are names, the last of many.

    It never begins with a dot: a folder that holds results is to be seen.
    """
    parts = [part for part in PurePath(model).parts if part not in (PurePath(model).anchor, "..", "~")]
    name = "-".join(parts or [find(model).resolve().name]).replace(" ", "-")
    return name.encode()[-MAX_ID_BYTES:].decode(errors="ignore").lstrip(".") or "model"


def make_folder(config: Config) -> Path:
    """Creates `model_folder` and saves the resolved configuration in it."""
    folder = model_folder(config)
    hint = "set data.output_dir to a folder you can write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror}; {hint}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write into {folder}; {hint}")
    write_atomic(folder / "config.yaml", as_yaml(config))
    return folder


def records_folder(config: Config) -> Path:
    """The folder of records that is read: `data.attention_dir` or, if it is null, the model's own."""
    return model_folder(config) if config.data.attention_dir is None else find(config.data.attention_dir)


# one sample


def image_path(config: Config) -> Path:
    """The picture. Raises UserError if none is named."""
    if config.data.image_file is None:
        raise UserError("no picture: set data.image_file=path/to/picture")
    return find(config.data.image_file)


def record_name(config: Config) -> str:
    """The record's name, without its ending: `data.save_id` or the picture's."""
    return check_id(config.data.save_id if config.data.save_id is not None else image_path(config).stem)


def record_path(config: Config) -> Path:
    """The saved record that a configuration names. Raises UserError if there is none."""
    if config.data.attention_file is not None:
        return find(config.data.attention_file)
    folder, name = model_folder(config), record_name(config)
    path = find_record(folder, name)
    if path is None:
        hint = "set data.attention_file=path/to/record.pkl, or make it with stage=collect"
        raise UserError(f"no record {folder / name}.pkl: {hint}")
    return path


def print_written(paths: list[Path]) -> None:
    """Prints the files of a stage, which lie in one folder."""
    print(f"\nwrote in {paths[0].parent}")
    for path in paths:
        print(f"  {path.name}")
