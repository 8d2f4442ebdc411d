"""The command line as Hydra should read it: what was typed for a text or a path is what arrives.

hydra_arguments(["data.query=the man's hat"], {"data.query": "text"})     # ["data.query='the man\\'s hat'"]
hydra_arguments(["-m", "data.query=a cat,a dog"], {"data.query": "text"})  # two jobs
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NoReturn, TypeVar

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf, ValidationError
from yaml import YAMLError

from lab.base.errors import UserError, shown
from lab.base.paths import PROJECT
from lab.base.refusals import wrong_kind

Options = TypeVar("Options")

MULTIRUN = ("-m", "--multirun")
# What a launcher that Hydra does not bring is installed as, by the package that it needs.
LAUNCHERS = {"joblib": ("joblib", "hydra-joblib-launcher")}
SUBMITIT = ("submitit", "hydra-submitit-launcher")  # of slurm, submitit_local and submitit_slurm
HELP = "(python pipeline.py --help shows what there is)"
DIGITS = 300  # of a number; Python reads no integer of more than 4,300
LONG_NUMBER = re.compile(rf"(?:\d_?){{{DIGITS + 1}}}")
# A list of numbers, which is no path: [[14,24],[14,13]].
NUMBERS = re.compile(r"\[[\d\s\[\],.+-]*\]")
# One of the values that -m tries: commas in brackets, before a space, at the end or behind a \ belong to it.
VALUE = re.compile(r"(?:\\,|,(?=\s|$)|\[(?:[^\[\]]|\[[^\[\]]*\])*\]|[^,])+")
# One of the folders of [A,B]: in quotes of its own, or up to a comma without a \ before it.
FOLDER = re.compile(r"""\s*(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")\s*(?=,|$)|(?:\\,|[^,])+""")


def hydra_arguments(arguments: Sequence[str], free_text: Mapping[str, str]) -> list[str]:
    """The arguments with quotes around every text and path.

    `free_text`: the keys whose values are texts, and what each takes: text, file, folder, folders ([A,B]) or heads (a
    list of numbers, or a file).

    Raises UserError for what would add keys that the schema does not have, for what is no text or no number, and for a
    launcher without `-m` or that is not installed.
    """
    arguments = sorted(map(_utf8, arguments), key=lambda argument: argument not in MULTIRUN)  # Hydra takes it in front
    sweep = any(_is_multirun(argument) for argument in arguments)
    for argument in arguments:
        if argument.startswith(("+", "~")) and not argument.startswith(("+hydra", "++hydra")):
            instead = f"write {argument.lstrip('+~')} (python pipeline.py --help lists them)"
            raise UserError(f"{argument}: keys cannot be added or removed; {instead}")
        key, equals, value = argument.partition("=")
        if equals and (not key or "@" in key):
            raise UserError(f"{shown(argument)}: expected key=value, such as logic.top_k=5")
        if value == "null" and key.isidentifier() and (presets := sorted((PROJECT / "conf" / key).glob("*.yaml"))):
            raise UserError(f"{argument}: choose from {', '.join(path.stem for path in presets)}")
        if argument.startswith("hydra/launcher=") and argument != "hydra/launcher=basic":
            _check_launcher(argument.partition("=")[2], sweep)
    return [_as_typed(argument, free_text, sweep) for argument in arguments]


def check_flags(arguments: Sequence[str]) -> None:
    """Raises UserError for flags that Hydra does not have or would not take together, of which it tells in several
    lines, and for what it offers but cannot be done here.
    """
    parser = get_args_parser()
    parser.allow_abbrev, parser.error = False, _refuse_flag  # type: ignore[method-assign]
    flags, unknown = parser.parse_known_args(arguments)
    if unknown and unknown[0].startswith("-"):
        raise UserError(
            f"{shown(unknown[0])}: there is no such option; expected key=value, such as logic.top_k=5 {HELP}"
        )
    if unknown:
        raise UserError(f"{shown(unknown[0])}: put options that begin with - before all key=value")
    if flags.experimental_rerun is not None or flags.shell_completion:
        raise UserError(f"--experimental-rerun and --shell-completion are Hydra's and do nothing here {HELP}")
    if flags.resolve and flags.cfg is None:
        raise UserError("--resolve does nothing without --cfg: write --cfg job --resolve")
    if sum((flags.run, flags.multirun, flags.cfg is not None, flags.info is not None)) > 1:
        raise UserError("of --run, --multirun, --cfg and --info only one can be given")


def _refuse_flag(message: str) -> NoReturn:
    raise UserError(f"{message} {HELP}")


class Parser(argparse.ArgumentParser):
    """A parser of options whose errors are one line: UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help lists what there is)")


def typed_options(kind: type[Options], arguments: Sequence[str]) -> Options:
    """`key=value` arguments as an object of a dataclass whose fields are the keys; what is not named has its default.

    Texts arrive as they were typed. With `--help`, prints what the command says of itself and its keys, and ends.
    Raises UserError, which names the keys, for what is none of them, and OmegaConf's errors on wrong types.
    """
    known = _leaves(OmegaConf.to_container(OmegaConf.structured(kind)))
    if {"--help", "-h"} & set(arguments):
        print(sys.modules["__main__"].__doc__)
        print("keys, and what they are if they are left out (???: it has to be given):\n")
        print("\n".join(f"    {key}={_written(value)}" for key, value in known.items()))
        raise SystemExit(0)
    options = OmegaConf.structured(kind)
    for argument in map(_utf8, arguments):
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            raise UserError(f"{shown(argument)}: expected key=value, with a key of {', '.join(known)}")
        if isinstance(known[key], str):
            OmegaConf.update(options, key, literal(value))
            continue
        _check_digits(argument, value)
        try:
            options = OmegaConf.merge(options, OmegaConf.from_dotlist([argument]))
        except (YAMLError, RecursionError):
            raise UserError(f"{shown(argument)}: expected a number, a word or a list, [A,B]") from None
        except ValidationError as error:
            raise UserError(f"{shown(argument)}: {wrong_kind(error) or str(error).splitlines()[0]}") from None
    return OmegaConf.to_object(options)  # type: ignore[return-value]


def _written(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return "null" if value is None else str(value)


def _leaves(settings: Any, above: str = "") -> dict[str, Any]:
    """{"n": 5, "tower": {"steps": 3}} -> {"n": 5, "tower.steps": 3}"""
    if not isinstance(settings, dict):
        return {above: settings}
    parts = (_leaves(value, f"{above}.{name}" if above else name) for name, value in settings.items())
    return {name: value for part in parts for name, value in part.items()}


def literal(text: str) -> str:
    """A text as OmegaConf writes it, to which `${` would be the beginning of a reference."""
    return re.sub(r"(\\*)\$\{", lambda found: rf"{2 * found[1]}\${{", text)


def _utf8(argument: str) -> str:
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        raise UserError(f"{shown(ascii(argument))}: not a text in UTF-8") from None


def _is_multirun(argument: str) -> bool:
    return argument in (*MULTIRUN, "hydra.mode=MULTIRUN")


def _check_launcher(name: str, sweep: bool) -> None:
    plugin, package = LAUNCHERS.get(name, SUBMITIT)
    if find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None:
        raise UserError(f"hydra/launcher={name} needs the package {package}: pip install {package}")
    if not sweep:
        raise UserError(
            "hydra/launcher does nothing without -m: python pipeline.py -m hydra/launcher=slurm stage=batch ..."
        )


def _as_typed(argument: str, free_text: Mapping[str, str], sweep: bool) -> str:
    key, equals, value = argument.partition("=")
    takes = free_text.get(key) if equals else None
    if takes in (None, "heads"):
        _check_digits(argument, value)
    if takes is None:
        return argument
    if takes == "folders" and value != "null" and not value.startswith("["):
        raise UserError(f"{shown(argument)}: expected a list, {key}=[A,B]")
    values = VALUE.findall(value) or [value] if sweep else [value]
    return f"{key}={','.join(_value(one, takes, sweep) for one in values)}"


def _check_digits(argument: str, value: str) -> None:
    if LONG_NUMBER.search(value):
        raise UserError(f"{shown(argument)}: expected numbers of at most {DIGITS} digits")


def _value(value: str, takes: str, sweep: bool) -> str:
    if value == "null" or (takes == "heads" and NUMBERS.fullmatch(value)):
        return value
    if takes == "folders" and value.startswith("["):
        return f"[{','.join(map(_folder, FOLDER.findall(value[1:].removesuffix(']'))))}]"
    return _quoted(_commas(value) if sweep else value)


def _folder(text: str) -> str:
    text = text.strip()
    return text if text.startswith(("'", '"')) else _quoted(_commas(text))


def _commas(text: str) -> str:
    return text.replace("\\,", ",")


def _quoted(text: str) -> str:
    """By Hydra's rules for quotes: a backslash is one, unless a quote comes next."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), literal(text))
    return f"'{escaped}'"
