"""What several stages share: the model, the folders, the picture and the record that a configuration names."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from conf.schema import ANSWER_BOXES, Config, Contrast, as_dict, as_yaml
from lab.base.errors import UserError, shown
from lab.base.files import MAX_ID_BYTES, check_id, check_writable, write_atomic
from lab.base.memory import uncollected
from lab.base.paths import find, home
from lab.base.processes import processes
from lab.base.remote import is_url, kept_at
from lab.datasets.sample import with_period
from lab.heads.choice import HeadChoice, check_owner
from lab.records.files import load_or_why, load_record
from lab.records.folder import find_record, home_of, list_samples

if TYPE_CHECKING:  # the model's libraries take a second to import, and only stages that ask it need them
    from llava.family import LoadedModel

log = logging.getLogger(__name__)

CPU = -1  # of device_id
EXAMPLE = ("examples/images/bird.png", "birds.")  # what is asked if nothing is named


def wants_generic(config: Config) -> bool:
    """Whether records shall hold the generic prompt's attention too."""
    return config.data.save_generic or config.logic.contrast != Contrast.none


def load_model(config: Config) -> "LoadedModel":
    """The checkpoint that `model` names, on this process's device, with the attention asked for."""
    with uncollected():  # torch and transformers take seconds: what is wrong with the rest is told before
        from lab.attention.capture import use_attention
        from llava.model.builder import load_from_config

    device = processes().device(device_name(config))
    loaded = load_from_config(config.model, name=str(find(config.model.name)), device=device)
    if config.model.read == ANSWER_BOXES and loaded.family.box_rule is None:
        own = type(loaded.family).__name__
        raise UserError(f"model.read={ANSWER_BOXES}: how {own} writes boxes is not known here; set model.read=answer")
    use_attention(loaded.model, config.model.attention)
    return loaded


def model_with_heads(config: Config, choice: HeadChoice) -> "LoadedModel":
    """`load_model`. Raises UserError if the model does not have the heads, or they are of another (`check_owner`)."""
    check_owner(choice, config.model.name)
    loaded = load_model(config)
    choice.fixed((loaded.num_layers, loaded.num_heads))
    return loaded


def device_name(config: Config) -> str:
    """`device`, with `device_id` put behind `cuda`."""
    if config.device_id is None or config.device == "cpu":
        return config.device
    if config.device_id == CPU and config.device == "auto":
        return "cpu"
    if config.device not in ("auto", "cuda"):
        raise UserError(f"device={config.device} already names one device: leave out device_id={config.device_id}")
    return f"cuda:{config.device_id}"


# folders

OUTPUT = "outputs/localization_heads"  # of data.output_dir=null


def model_folder(config: Config) -> Path:
    """`<output_dir>/<model>`, where the records of a model lie."""
    return output_folder(config) / folder_name(config.model.name)


def output_folder(config: Config) -> Path:
    """`data.output_dir`, or where records go without it."""
    return home(OUTPUT if config.data.output_dir is None else config.data.output_dir)


def folder_name(model: str) -> str:
    """`liuhaotian/llava-v1.5-7b` -> `liuhaotian-llava-v1.5-7b`; of a path the parts that are names, the last of many.

    It never begins with a dot: a folder that holds results is to be seen.
    """
    parts = [part for part in PurePath(model).parts if part not in (PurePath(model).anchor, "..", "~")]
    name = "-".join(parts or [find(model).resolve().name]).replace(" ", "-")
    return name.encode()[-MAX_ID_BYTES:].decode(errors="ignore").lstrip(".") or "model"


def records_folder(config: Config) -> Path:
    """The folder of records that is read: `data.attention_dir` or, if it is null, the model's own."""
    return model_folder(config) if config.data.attention_dir is None else find(config.data.attention_dir)


def results_folder(config: Config) -> Path:
    """Where goes what is made of records that are there: beside them unless `data.output_dir` names another place.

    There, what is made of the records of a folder F goes to `<output_dir>/<name of F>`.
    """
    if config.data.attention_file is not None:
        read = home_of(find(config.data.attention_file).absolute())
    elif config.data.attention_dir is not None:
        read = find(config.data.attention_dir).absolute()
    else:
        return model_folder(config)
    return read if config.data.output_dir is None else output_folder(config) / read.name


def make_folder(config: Config) -> Path:
    """Creates `model_folder` and saves the resolved configuration in it."""
    return _made(model_folder(config), "config.yaml", config)


def check_results(config: Config, *names: str, figures: Sequence[str] = ()) -> None:
    """Raises UserError if what a stage shall write into `results_folder` could not be put there: before it is made.

    `figures` are names without endings.
    """
    drawn = [f"{name}.{config.save_format}" for name in figures if config.save_fig]
    check_writable(results_folder(config), f"config.{config.stage}.yaml", *names, *drawn)


def make_results_folder(config: Config) -> Path:
    """Creates `results_folder` and saves the resolved configuration in it.

    Its name is that of the stage, so that the configuration which made the records stays beside them.
    """
    return _made(results_folder(config), f"config.{config.stage}.yaml", config)


def _made(folder: Path, name: str, config: Config) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "set data.output_dir to a folder you can write to"
        raise UserError(f"cannot create {folder}: {error.strerror}; {hint}") from None
    write_atomic(folder / name, as_yaml(as_dict(config)))
    return folder


# one sample


def with_example(config: Config) -> tuple[Config, str]:
    """The configuration with the shipped picture, and its expression, if it names no picture and no record; and what to
    say of that once all is known to be right.
    """
    data = config.data
    if any(value is not None for value in (data.image_file, data.attention_file, data.attention_dir)):
        return config, ""
    picture, query = EXAMPLE[0], EXAMPLE[1] if data.query is None else data.query
    note = f'no data.image_file: the shipped {picture}, asked for "{query}"'
    return replace(config, data=replace(data, image_file=picture, query=query)), note


def tell(*notes: str) -> None:
    """Says what was chosen for the user."""
    for note in filter(None, notes):
        log.info("%s", note)


def image_path(config: Config) -> Path:
    """The picture. Raises UserError if none is named."""
    if config.data.image_file is None:
        raise UserError("no picture: set data.image_file=path/to/picture")
    named = config.data.image_file
    return kept_at(named) if is_url(named) else find(named)


def asked(config: Config) -> str:
    """The expression, as the model is asked for it. Raises UserError if there is none."""
    query = config.data.query
    if query is None or not query.strip():
        raise UserError('data.query is empty: say what to look for, for example data.query="the bird on the left"')
    return with_period(query) if config.data.final_period else query


def new_record_name(config: Config) -> tuple[str, str]:
    """The name, without its ending, of the record to be made: `data.save_id` or the picture's; and what to say of it.

    If a record with the picture's name holds another picture or expression, a number is put behind the name.
    """
    stem = _record_stem(config)
    if config.data.save_id is not None:
        return stem, ""
    for name, path in _records_named(model_folder(config), stem):
        if path is None or _about(path) in (None, (image_path(config).resolve(), asked(config))):
            return name, "" if name == stem else f"{stem} holds another expression or picture: this record is {name}"
    raise AssertionError("the names never end")


def _record_stem(config: Config) -> str:
    """`data.save_id` or the picture's name without its ending. Raises UserError if it cannot name a file."""
    named = config.data.save_id
    try:
        return check_id(image_path(config).stem if named is None else named)
    except UserError as error:
        whose = "data.save_id" if named is not None else f"made from {shown(image_path(config).name)}"
        raise UserError(f"{error} ({whose}); set data.save_id to a name for the record") from None


def record_path(config: Config) -> Path:
    """The saved record that a configuration names. Raises UserError if there is none, or several that it may mean."""
    if config.data.attention_file is not None:
        return find(config.data.attention_file)
    folder = model_folder(config)
    stem = _record_stem(config)
    paths = [path for _, path in takewhile(lambda found: found[1] is not None, _records_named(folder, stem))]
    there = [path for path in paths[: 1 if config.data.save_id is not None else None] if path is not None]
    if not there:
        raise UserError(f"no record {folder / stem}.pkl: {_others_there(folder)}")
    if config.data.query is not None and config.data.save_id is None:
        told = {path: _about(path) for path in there}
        of_query = [path for path, about in told.items() if about is not None and about[1] == asked(config)]
        matching = of_query or [path for path, about in told.items() if about is None]
        if not matching:
            raise UserError(
                f'{there[0]} is of another expression than data.query="{config.data.query}": make the record with '
                "stage=collect, or name one as data.attention_file"
            )
        there = matching
    if len(there) > 1:
        names = ", ".join(f"{path.name}{_unless_readable(path)}" for path in there)
        raise UserError(f"{folder} holds {names}: say which one, with data.query or data.attention_file")
    return there[0]


def _others_there(folder: Path) -> str:
    """What to set where a folder lacks the record of a name, with the names of those that it holds."""
    records = list(list_samples(folder)["records"].values()) if folder.is_dir() else []
    if not records:
        return "set data.attention_file=path/to/record.pkl, or make it with stage=collect"
    names = ", ".join(path.name for path in records[:3]) + (", ..." if len(records) > 3 else "")
    return f"the folder holds {names}; name one as data.attention_file, or all of them as data.attention_dir={folder}"


def _unless_readable(path: Path) -> str:
    return " (cannot be read)" if isinstance(load_or_why(path), str) else ""


def _records_named(folder: Path, stem: str) -> Iterator[tuple[str, Path | None]]:
    """X, X-2, X-3, ... without end, each with its record if it is there."""
    for number in count(1):
        name = stem if number == 1 else f"{stem}-{number}"
        yield name, find_record(folder, name)


def _about(path: Path) -> tuple[Path, str] | None:
    """The picture and the expression of a record; None if it tells none or cannot be read."""
    try:
        meta = load_record(path).meta
    except UserError:
        return None
    named = meta.get("image_file"), meta.get("query")
    return None if None in named else (find(str(named[0])).resolve(), str(named[1]))


def print_written(paths: list[Path]) -> None:
    """Prints the files of a stage, which lie in one folder."""
    print(f"\nwrote in {paths[0].parent}")
    for path in paths:
        print(f"  {path.name}")
