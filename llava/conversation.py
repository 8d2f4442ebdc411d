"""Prompt templates by the names that LLaVA users write in `conv_mode`.

Each is the first turn of a conversation up to the point where the model would answer. `{system}` and `{query}` are
filled in; everything else is literal, separators and missing spaces included, because the models were trained on
exactly that. The few-shot templates of the original (`default`, `v0`) are left out: their example dialogue says nothing
about the image.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from conf.schema import ModelConfig
from lab.base.errors import UserError


@dataclass(frozen=True)
class Conversation:
    """A template: the system text, and the frame with `{system}`, `<image>` and `{query}` in it."""

    system: str
    frame: str
    drop_space_tokens: bool = False  # leave stand-alone space tokens out of the prompt


_ASSISTANT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_CHAT = (
    "A chat between a curious {asker} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {asker}'s questions."
)
_TAGGED = (  # the missing space before the last sentence is the original's
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_CHATML = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."

_VICUNA_FRAME = "{system} USER: <image>\n{query} ASSISTANT:"
_V0_FRAME = "{system}###Human: <image>\n{query}###Assistant:"
_LLAMA_2_FRAME = "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n<image>\n{query} [/INST]"
_CHATML_FRAME = (
    "<|im_start|>system\n{system}<|im_end|><|im_start|>user\n<image>\n{query}<|im_end|><|im_start|>assistant\n"
)

CONVERSATIONS: dict[str, Conversation] = {
    "referseg": Conversation(_ASSISTANT, "{system}\n<image>\n{query}", drop_space_tokens=True),
    "vicuna_v1": Conversation(_CHAT.format(asker="user"), _VICUNA_FRAME),
    "llava_v1": Conversation(_CHAT.format(asker="human"), _VICUNA_FRAME),
    "v1_mmtag": Conversation(_TAGGED, _VICUNA_FRAME.replace("<image>", "<Image><image></Image>")),
    "llava_v0": Conversation(_CHAT.format(asker="human"), _V0_FRAME),
    "v0_mmtag": Conversation(_TAGGED, _V0_FRAME.replace("<image>", "<Image><image></Image>")),
    "llama_2": Conversation(_LLAMA_2, _LLAMA_2_FRAME),
    "llava_llama_2": Conversation(_ASSISTANT, _LLAMA_2_FRAME),
    "mistral_instruct": Conversation("", "[INST] <image>\n{query} [/INST]"),
    "chatml_direct": Conversation("Answer the questions.", _CHATML_FRAME),
    "mpt": Conversation(_CHATML, _CHATML_FRAME),
    "plain": Conversation("", "<image>\n{query}\n"),
}
CONVERSATIONS["v1"] = CONVERSATIONS["vicuna_v1"]
CONVERSATIONS["v0_plain"] = CONVERSATIONS["plain"]
CONVERSATIONS["mistral_direct"] = CONVERSATIONS["chatml_direct"]


CHAT, CHAT_OPEN = "chat", "chat_open"
ASKED_WITH = (
    "question",
    "system",
    "image_processor",
    "image_aspect_ratio",
    "drop_space_tokens",
)
ANSWERED_WITH = ("max_new_tokens", "num_beams", "do_sample", "temperature", "top_p")
FAMILY_TEMPLATES = ("referseg", CHAT)  # those that a family asks in if no other is named
OWN_TEMPLATES = {  # the checkpoint's own chat template, for families that have one
    CHAT: "as the model is asked, up to where it would answer",
    CHAT_OPEN: "the same with the user's turn left open, so that the last token is the expression's own",
}


def asked_with(model: ModelConfig) -> dict[str, Any]:
    """What decides how a model is asked, and how it answers if it does: the settings that are set, as plain values."""
    names = (*ASKED_WITH, *(ANSWERED_WITH if model.answers else ()))
    values = {name: getattr(model, name) for name in names}
    return {
        name: str(value) if isinstance(value, Enum) else value for name, value in values.items() if value is not None
    }


def check_conv_mode(conv_mode: str | None) -> None:
    """Raises UserError if there is no template of that name; None is the family's own."""
    if conv_mode is not None and conv_mode not in OWN_TEMPLATES:
        conversation(conv_mode)


def conversation(conv_mode: str) -> Conversation:
    """The template of that name.

    Raises:
        UserError: there is none; the message lists those that exist.
    """
    if conv_mode not in CONVERSATIONS:
        raise UserError(
            f"No prompt template {conv_mode!r} (model.conv_mode); there are {', '.join(sorted(CONVERSATIONS))}, "
            f"and for models with a chat template of their own {', '.join(OWN_TEMPLATES)}"
        )
    return CONVERSATIONS[conv_mode]
