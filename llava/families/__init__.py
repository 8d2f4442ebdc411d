"""The model families, one file each, and the one table of them."""

from llava.families.llava import Llava
from llava.families.llava_next import LlavaNext
from llava.family import Family

# model_type of config.json -> family
FAMILIES: dict[str, type[Family]] = {kind: family for family in (Llava, LlavaNext) for kind in family.model_types}
