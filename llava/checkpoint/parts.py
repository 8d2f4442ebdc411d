"""What lies beside the weights of a checkpoint: tokenizer and image processor."""

import json
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from lab.base.errors import UserError
from llava.checkpoint.weights import one_line_errors


def load_tokenizer(folder: Path, *, prefer_sentencepiece: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint folder, from tokenizer.json or tokenizer.model.

    AutoTokenizer is not asked: for LLaVA's tokenizer.model it leaves out the space before the first word.

    Raises:
        UserError: its files are missing or broken.
    """
    names = ["tokenizer.json", "tokenizer.model"]
    found = [name for name in (reversed(names) if prefer_sentencepiece else names) if (folder / name).exists()]
    if not found:
        raise UserError(f"{folder} has no tokenizer; expected {' or '.join(names)}")
    with one_line_errors(folder / found[0]):
        if found[0] == "tokenizer.json":
            return PreTrainedTokenizerFast.from_pretrained(folder)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        unsaid = {"legacy": True, "add_bos_token": True}  # what was meant when these files did not say it
        return LlamaTokenizer.from_pretrained(
            folder, **{key: settings.get(key, value) for key, value in unsaid.items()}
        )


def load_image_processor(folder: Path, kind: Any, **settings: Any) -> Any:
    """The preprocessing that the folder describes, as an image processor of the class `kind`; needs no torchvision.

    Raises:
        UserError: its file is missing or broken.
    """
    if not any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        raise UserError(f"{folder} has no preprocessor_config.json, which says how pictures are resized and normalised")
    with one_line_errors(folder / "preprocessor_config.json"):
        return kind.from_pretrained(folder, **settings)
