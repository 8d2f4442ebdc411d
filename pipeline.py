"""Finds the attention heads that look at what an expression describes.

    python pipeline.py                                                        # the shipped picture and model
    python pipeline.py data.image_file=photo.jpg data.query="the cup on the left"
    python pipeline.py model=llava15_7b data.image_file=photo.jpg data.query="the cup on the left"
    python pipeline.py stage=batch data.data_file=samples.jsonl data.process_all=true
    python pipeline.py stage=analyze data.attention_file=outputs/localization_heads/<model>/<id>.pkl
    python pipeline.py stage=visualize data.attention_file=outputs/localization_heads/<model>/<id>.pkl
    python pipeline.py stage=select data.attention_dir=outputs/localization_heads/<model>
    python pipeline.py stage=evaluate data.data_file=samples_with_truth.jsonl data.process_all=true

`python pipeline.py --help` lists every key; README.md explains them.
"""

import sys

import hydra

import conf.schema
from conf.schema import Config
from lab.cli import exit_in_one_line

conf.schema.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: Config) -> None:
    with exit_in_one_line():  # inside, because Hydra adds lines of its own to errors that leave the job
        from lab.stages import run

        sys.exit(run(cfg))


if __name__ == "__main__":
    with exit_in_one_line():  # around, for what cannot even be composed
        main()
