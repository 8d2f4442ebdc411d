"""The stages of one sample, and the files they share.

Each takes the whole configuration, prints a short table, returns an exit code.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from analyze import fixed_heads
from conf.schema import Config
from lab.base.errors import UserError
from lab.base.files import check_id, write_atomic
from lab.base.images import open_image
from lab.base.paths import find
from lab.base.processes import processes
from lab.datasets.sample import with_period
from lab.heads.files import warn_of_another_model
from lab.records.record import Record

if TYPE_CHECKING:
    from llava.model.builder import LoadedModel


log = logging.getLogger(__name__)


# records in and out


def wants_generic(cfg: Config) -> bool:
    """Whether records shall hold the generic prompt's attention too."""
    return cfg.data.save_generic or cfg.logic.contrast != "none"


def load_model(cfg: Config) -> "LoadedModel":
    """The checkpoint that `model` names, on this process's device, with the attention asked for.

    Refuses heads that it does not have.
    """
    from lab.attention.capture import use_attention
    from llava.model.builder import load_from_config

    loaded = load_from_config(cfg.model, name=str(find(cfg.model.name)), device=processes().device(device_name(cfg)))
    use_attention(loaded.model, cfg.model.attention)
    fixed_heads((loaded.num_layers, loaded.num_heads), cfg.logic, cfg.model.localization_heads)
    warn_of_another_model(cfg, loaded.name)
    return loaded


def device_name(cfg: Config) -> str:
    """`device`, with `device_id` put behind `cuda`."""
    if cfg.device_id is None or cfg.device == "cpu":
        return cfg.device
    if cfg.device not in ("auto", "cuda"):
        raise UserError(f"device={cfg.device} already names one device: leave out device_id={cfg.device_id}")
    return f"cuda:{cfg.device_id}"


def _ask(cfg: Config) -> tuple[str, Record]:
    """The record's name and the record; whatever can be refused is refused before the model is loaded."""
    image_file, query = _image_file(cfg), cfg.data.query
    if query is None or not query.strip():
        raise UserError('data.query is empty: say what to look for, for example data.query="the bird on the left"')
    name = _record_name(cfg)
    image = open_image(image_file)
    from collector import collect as collect_record

    asked = with_period(query) if cfg.data.final_period else query
    return name, collect_record(
        load_model(cfg), image, asked, cfg.model, image_file=str(image_file), generic=wants_generic(cfg)
    )


def _image_file(cfg: Config) -> Path:
    if cfg.data.image_file is None:
        raise UserError("no picture: set data.image_file=path/to/picture")
    return find(cfg.data.image_file)


def _record_name(cfg: Config) -> str:
    return check_id(cfg.data.save_id if cfg.data.save_id is not None else _image_file(cfg).stem)


def model_folder(cfg: Config) -> Path:
    """`<output_dir>/<model>`, where the records of a model lie."""
    return Path(cfg.data.output_dir) / cfg.model.name.strip("/").replace("/", "-").replace(" ", "-")


def make_folder(cfg: Config) -> Path:
    """Creates `model_folder` and saves the resolved configuration in it."""
    folder = model_folder(cfg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create {folder}: {error.strerror}; set data.output_dir to a folder you can write to"
        ) from None
    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    return folder


def print_written(paths: list[Path]) -> None:
    """The files of a stage, which lie in one folder."""
    print(f"\nwrote in {paths[0].parent}")
    for path in paths:
        print(f"  {path.name}")
