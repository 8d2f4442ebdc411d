"""Finds the attention heads that look at what an expression describes.

    python pipeline.py                                                        # the shipped picture and model
    python pipeline.py data.image_file=photo.jpg data.query="the cup on the left"
    python pipeline.py model=llava15_7b data.image_file=photo.jpg data.query="the cup on the left"
    python pipeline.py stage=batch data.data_file=samples.jsonl data.process_all=true
    accelerate launch --num_processes 8 pipeline.py stage=batch data.data_file=samples.jsonl data.process_all=true
    python pipeline.py stage=analyze data.attention_file=outputs/localization_heads/<model>/<id>.pkl
    python pipeline.py stage=visualize data.attention_file=outputs/localization_heads/<model>/<id>.pkl
    python pipeline.py stage=select data.attention_dir=outputs/localization_heads/<model>
    python pipeline.py stage=evaluate data.data_file=samples_with_truth.jsonl data.process_all=true
    python pipeline.py stage=study data.data_file=samples_with_truth.jsonl
    python pipeline.py stage=report data.data_file=samples_with_truth.jsonl

`python pipeline.py --help` lists every key; README.md explains them.
"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_method

import conf.schema
from conf.schema import Config, check
from lab.base.console import exit_in_one_line, hydra_arguments
from lab.base.processes import leave, refuse_many

STAGES = {  # imported only when asked for, so that a stage starts as fast as it can
    "collect": "lab.stages.collect.collect",
    "analyze": "lab.stages.analyze.analyze",
    "visualize": "lab.stages.visualize.visualize",
    "pipeline": "lab.stages.pipeline.pipeline",
    "batch": "lab.stages.batch.run_batch",
    "select": "lab.stages.select.run_select",
    "evaluate": "lab.stages.evaluate.run_evaluate",
    "study": "lab.stages.study.run_study",
    "report": "lab.stages.report.run_report",
}

conf.schema.register()


def run(cfg: Config) -> int:
    """Checks the configuration and the file of heads that it may name, then runs its stage. Returns the exit code."""
    check(cfg)
    from lab.heads.files import with_heads_of_file

    if cfg.stage != "batch":
        refuse_many(cfg.stage)

    return get_method(STAGES[cfg.stage])(with_heads_of_file(cfg))


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: Config) -> int:
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # in a launcher's job, which reports by itself
        return run(cfg)
    with exit_in_one_line():  # inside, because Hydra adds lines of its own to errors that leave the job
        leave(run(cfg))


if __name__ == "__main__":
    with exit_in_one_line():  # around, for what cannot even be composed
        sys.argv[1:] = hydra_arguments(sys.argv[1:])
        main()
