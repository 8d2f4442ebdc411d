"""The picture-book LLaVA before training.

Configuration, tokenizer and processor, all in the standard transformers layout.
"""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor

from lab.picturebook.expressions import lexicon
from llava.conversation import CONVERSATIONS

IMAGE_SIZE = 192
PATCH_SIZE = 12
GRID = IMAGE_SIZE // PATCH_SIZE  # 16 x 16 = 256 image tokens
IMAGE_TOKEN = "<image>"
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, so that the padding colour is LLaVA's too
STD = (0.26862954, 0.26130258, 0.27577711)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One piece per word of the world and of the system prompt, then letters, then bytes: any text has an encoding."""
    system_words = CONVERSATIONS["referseg"].system.lower().replace(",", " ").replace(".", " ").split()
    words = sorted({*lexicon(), *system_words})
    special = ["<unk>", "<s>", "</s>", "<pad>", IMAGE_TOKEN]
    pieces: dict[str, float] = dict.fromkeys(special, 0.0)
    pieces.update({f"<0x{byte:02X}>": -20.0 for byte in range(256)})
    pieces.update({"▁": -4.0, "\n": -4.0})
    pieces.update(dict.fromkeys("abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-", -8.0))
    pieces.update({f"▁{word}": -2.0 for word in words})

    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("\n"), "isolated"), pre_tokenizers.Metaspace("▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", prepend_scheme="always")])
    begin = [("<s>", list(pieces).index("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=begin)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[IMAGE_TOKEN],
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def make_processor(
    tokenizer: PreTrainedTokenizerFast, image_size: int = IMAGE_SIZE, patch_size: int = PATCH_SIZE
) -> LlavaProcessor:
    """Pads to a centred square, resizes to `image_size` pixels, normalises as CLIP does."""
    image_processor = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlavaForConditionalGeneration:
    """Random weights: a 5-layer vision tower, a 2-layer projector, and a language model of 8 layers x 8 heads."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=24,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the model (float16 safetensors), tokenizer and processor as `from_pretrained` reads them."""
    model.to(torch.float16).save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
