"""The stages of one sample, and the files they share. Each takes the whole configuration, prints a short table, returns an exit code."""

import io
import json
import logging
import math
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from analyze import HeadScore, chosen_heads, fixed_heads, rank_heads, scores_of
from bbox import Localization, localize
from conf.schema import Config
from lab.cli import find, table
from lab.datasets.sample import with_period
from lab.errors import UserError
from lab.heads import same_model, warn_of_another_model
from lab.images import open_image
from lab.processes import processes
from lab.records import Record, check_id, load_record, write_atomic
from lab.storage import as_stored, at_precision, find_record, write_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llava.model.builder import LoadedModel

log = logging.getLogger(__name__)


def collect(cfg: Config) -> int:
    """Image and query -> record."""
    name, record = _ask(cfg)
    print_written([write_record(make_folder(cfg), name, as_stored(record, cfg), cfg)])
    return 0


def analyze(cfg: Config) -> int:
    """Record -> ranking of its heads; with `data.attention_dir`, of every record of a folder."""
    if cfg.data.attention_dir is not None:
        from lab.analysis import analyze_folder

        return analyze_folder(cfg)
    path = _record_path(cfg)
    record = load_record(path)
    ranking = rank_heads(record, cfg.logic)
    written = write_ranking(path, ranking)
    print(heads_table(ranking[: max(10, cfg.logic.top_k)]))
    print_written(written)
    return 0


def visualize(cfg: Config) -> int:
    """Record -> mask, box and figure."""
    path = _record_path(cfg)
    record = load_record(path)
    if record.image_size is None:  # records of old
        record = record.with_image_size(open_image(_picture_of(record, cfg)).size)
    result = localize_record(record, rank_heads(record, cfg.logic), cfg)
    print(heads_table(scores_of(record, result.heads, cfg.logic)))
    print(f"\n{box_line(result)}")
    print_written(write_localization(cfg, path, record, result))
    return 0


def pipeline(cfg: Config) -> int:
    """Image and query -> record, ranking, mask, box and figure."""
    name, asked = _ask(cfg)
    record = at_precision(asked, cfg.data)  # so that a later reading finds the same
    ranking = rank_heads(record, cfg.logic)
    result = localize_record(record, ranking, cfg)
    path = write_record(make_folder(cfg), name, as_stored(record, cfg), cfg)  # from here on everything is known to be right
    written = [path, *write_ranking(path, ranking), *write_localization(cfg, path, record, result)]
    print(f'\n"{record.meta["query"]}" in {record.meta["image_file"]}\n')
    print(heads_table(scores_of(record, result.heads, cfg.logic)))
    print(f"\n{box_line(result)}")
    print_written(written)
    return 0


# records in and out


def wants_generic(cfg: Config) -> bool:
    """Whether records shall hold the generic prompt's attention too."""
    return cfg.data.save_generic or cfg.logic.contrast != "none"


def load_model(cfg: Config) -> "LoadedModel":
    """The checkpoint that `model` names, on this process's device, with the attention asked for. Refuses heads that it does not have."""
    from lab.attention import use_attention
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
    return name, collect_record(load_model(cfg), image, asked, cfg.model, image_file=str(image_file), generic=wants_generic(cfg))


def _image_file(cfg: Config) -> Path:
    if cfg.data.image_file is None:
        raise UserError("no picture: set data.image_file=path/to/picture")
    return find(cfg.data.image_file)


def _record_name(cfg: Config) -> str:
    return check_id(cfg.data.save_id if cfg.data.save_id is not None else _image_file(cfg).stem)


def _record_path(cfg: Config) -> Path:
    """The saved record that analyze and visualize read."""
    if cfg.data.attention_file is not None:
        return Path(cfg.data.attention_file)
    folder, name = model_folder(cfg), _record_name(cfg)
    path = find_record(folder, name)
    if path is None:
        raise UserError(f"no record {folder / name}.pkl: set data.attention_file=path/to/record.pkl, or make it with stage=collect")
    return path


def localize_record(record: Record, ranking: list[HeadScore], cfg: Config) -> Localization:
    """Heads as `logic.heads` says, then their mask and box. Refuses a preset's heads on a record of another model."""
    made_by = record.meta.get("model_name")
    if cfg.logic.heads == "preset" and made_by and not same_model(str(made_by), cfg.model.name):
        raise UserError(
            f"logic.heads=preset are the heads of {cfg.model.name}, but the record is of {made_by}: set model, or logic.heads=null"
        )
    return localize(record, chosen_heads(record, ranking, cfg.logic, cfg.model.localization_heads), cfg.logic)


def write_ranking(path: Path, ranking: list[HeadScore]) -> list[Path]:
    """The ranking beside its record, a list of dicts, best first: `X_analysis.pkl`, and `X_analysis.json` with null for infinity."""
    written = [sibling(path, "_analysis.pkl"), sibling(path, "_analysis.json")]
    rows = [score.to_dict() for score in ranking]
    write_atomic(written[0], pickle.dumps(rows))
    lines = (json.dumps(row | {"spatial_entropy": None} if row["spatial_entropy"] == math.inf else row) for row in rows)
    write_atomic(written[1], "[\n" + ",\n".join(lines) + "\n]")
    return written


def write_localization(cfg: Config, path: Path, record: Record, result: Localization) -> list[Path]:
    """`X_mask.png`, `X_bbox.json` and, unless `save_fig=false`, the figures beside the record."""
    figures = _draw(cfg, record, result) if cfg.save_fig or cfg.show_plot else {}  # first: they may lack their picture
    written = [sibling(path, "_mask.png"), sibling(path, "_bbox.json")]
    buffer = io.BytesIO()
    Image.fromarray(result.mask.astype(np.uint8) * 255).save(buffer, format="png")
    write_atomic(written[0], buffer.getvalue())
    write_atomic(written[1], box_json(record, result))
    if not figures:
        return written
    import viz

    if cfg.save_fig:
        for figure, file in zip(figures.values(), figure_files(cfg, path, result), strict=True):
            viz.save_figure(figure, file)
            written.append(file)
    if cfg.show_plot:
        viz.show(*figures.values())
    return written


def figure_files(cfg: Config, path: Path, result: Localization) -> list[Path]:
    """The files of `viz.sample_figures`, in its order."""
    names = [f"top{len(result.heads)}", *(["heads"] if cfg.viz.heads else []), *(["components"] if cfg.viz.components else [])]
    return [sibling(path, f"_{name}.{cfg.save_format}") for name in names]


def box_json(record: Record, result: Localization) -> str:
    """The content of `X_bbox.json`."""
    return json.dumps(
        {
            "bbox_xyxy": result.box_xyxy,
            "bbox_xywh": result.box_xywh,
            "image_size": record.image_size,
            "selected_heads": [list(head) for head in result.heads],
        }
    )


def _draw(cfg: Config, record: Record, result: Localization) -> "dict[str, Figure]":
    import viz  # matplotlib, only where a figure is wanted

    picture = open_image(_picture_of(record, cfg))
    if record.image_size not in (None, picture.size):
        known = "data.image_file must name the picture that the record was made from"
        raise UserError(f"the picture is {picture.width} x {picture.height} pixels, the record's {record.image_size}: {known}")
    return viz.sample_figures(record, result, picture, cfg)


def _picture_of(record: Record, cfg: Config) -> Path:
    """The picture that a record was made from, or `data.image_file` for records that name none or that have moved."""
    named = record.meta.get("image_file")
    if named and find(str(named)).exists():
        return find(str(named))
    log.warning("the record's picture %s is not there: using data.image_file=%s", named or "(none named)", cfg.data.image_file)
    return _image_file(cfg)


def model_folder(cfg: Config) -> Path:
    """`<output_dir>/<model>`, where the records of a model lie."""
    return Path(cfg.data.output_dir) / cfg.model.name.strip("/").replace("/", "-").replace(" ", "-")


def make_folder(cfg: Config) -> Path:
    """Creates `model_folder` and saves the resolved configuration in it."""
    folder = model_folder(cfg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror}; set data.output_dir to a folder you can write to") from None
    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    return folder


def sibling(path: Path, suffix: str) -> Path:
    """`X.pkl` or `X.pkl.gz` -> `X<suffix>` in the same folder."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".pkl") + suffix)


# tables on screen


def heads_table(scores: list[HeadScore]) -> str:
    """One line per head, in order."""
    rows = [(i + 1, s.layer, s.head, f"{s.attn_sum:.3f}", f"{abs(s.spatial_entropy):.3f}", s.num_components) for i, s in enumerate(scores)]
    return table(("rank", "layer", "head", "attention sum", "spatial entropy", "components"), rows)


def box_line(result: Localization) -> str:
    """The box in words."""
    if result.box_xyxy is None:
        return "no box: the mask is empty"
    x0, y0, x1, y1 = result.box_xyxy
    return f"box  x {x0} to {x1}, y {y0} to {y1} (pixels, inclusive), {x1 - x0 + 1} x {y1 - y0 + 1}"


def print_written(paths: list[Path]) -> None:
    """The files of a stage, which lie in one folder."""
    print(f"\nwrote in {paths[0].parent}")
    for path in paths:
        print(f"  {path.name}")
