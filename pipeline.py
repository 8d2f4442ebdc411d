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
    python pipeline.py stage=ablate data.data_file=samples.jsonl
    python pipeline.py stage=calibrate data.data_file=samples.jsonl
    python pipeline.py stage=report data.data_file=samples_with_truth.jsonl

`python pipeline.py --help` shows the stages and the keys that people use; conf/README.md lists every key.
"""

if __name__ == "__main__":
    import _signal  # `signal` takes a while to import
    import os

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # not ignored
        _signal.signal(_signal.SIGINT, lambda *_: os.write(2, b"interrupted\n") and os._exit(130))
    from lab.base.signals import end_at_once

    end_at_once()  # of Ctrl-C while the other libraries are imported

import sys
from dataclasses import replace
from functools import partial

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from conf.schema import PRESET, Config, check_paths, foreign_heads, free_text, plain, register
from lab.base.arguments import check_flags, hydra_arguments
from lab.base.console import exit_in_one_line, job_in_one_line
from lab.base.errors import UserError
from lab.base.processes import first_process, leave, refuse_many
from lab.base.refusals import meant
from lab.stages import STAGES, again
from llava.conversation import check_conv_mode

register()
codes: list[int] = []  # of the jobs of -m, one after another in this process


def run(cfg: Config | DictConfig) -> int:
    """Makes plain objects of the configuration, which check themselves, and runs its stage. Returns the exit code."""
    config = plain(cfg)
    if config.stage not in STAGES:
        raise UserError(f"stage={config.stage}: choose from {', '.join(STAGES)}{meant(config.stage, STAGES)}")
    check_conv_mode(config.model.conv_mode)
    check_paths(config)
    stage = STAGES[config.stage]
    if not stage.many:
        if config.data.shard is not None:
            later = "run this stage without it, over what all of them have written"
            raise UserError(f"data.shard={config.data.shard}: only stage=batch is done in parts; {later}")
        refuse_many(f"stage={config.stage}")
    # after the checks: it takes longer to import than they take
    from lab.heads.choice import HeadChoice, head_choice, names_file, tell_source, warn_of_foreign_heads
    from lab.presence.files import calibrated

    if not stage.heads or (stage.finds and names_file(config.logic.heads)):
        return stage.run(config, HeadChoice(config.logic.top_k))
    if cfg.logic.heads == PRESET and config.logic.heads is None and not stage.finds and first_process():
        warn_of_foreign_heads(str(foreign_heads(cfg)), config.model.name)
    choice = head_choice(config.logic, config.model)
    logic = calibrated(config, choice.named, choice.file) if stage.presence else config.logic
    code = stage.run(replace(config, logic=replace(logic, heads=choice.as_setting)), choice)
    if first_process():
        tell_source(choice)  # now that nothing was wrong with them
    return code


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> int:
    hydra_config = HydraConfig.get()
    multirun = hydra_config.mode == RunMode.MULTIRUN
    if multirun and hydra_config.runtime.choices["hydra/launcher"] != "basic":  # in a job, whose launcher reports
        return run(cfg)
    # inside, because Hydra adds lines of its own to errors that leave the job
    with exit_in_one_line():
        stage = cfg.stage
    with exit_in_one_line(again=again(stage)):
        if not multirun:
            leave(run(cfg))
        refuse_many("-m")
        codes.append(job_in_one_line(partial(run, cfg)))
    return codes[-1]


if __name__ == "__main__":
    with exit_in_one_line():  # around, for what cannot even be composed
        if {"--help", "-h"} & set(sys.argv[1:]):
            from conf.help import help_text

            print(help_text({name: stage.text for name, stage in STAGES.items()}))
            sys.exit()
        if "--version" in sys.argv[1:]:
            from lab import __version__

            print(f"localization heads {__version__}")
            sys.exit()
        sys.argv[1:] = hydra_arguments(sys.argv[1:], free_text())
        check_flags(sys.argv[1:])
        main()
        sys.exit(max(codes, default=0))
