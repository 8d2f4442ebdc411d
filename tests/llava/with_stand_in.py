"""The tests of every family, for those whose pictures torchvision prepares; run by test_torchvision."""

from pathlib import Path

import pytest

from collector import collect
from conf.schema import ModelConfig
from lab.base.errors import UserError
from llava.model.builder import load_model
from tests.llava.test_families import (  # noqa: F401
    TALL,
    eager,
    loaded,
    test_a_left_padded_batch_equals_alone,
    test_a_painted_cell_changes_its_own_feature_the_most,
    test_an_answer_is_that_of_the_model_alone,
    test_an_expression_is_read_as_if_it_were_alone,
    test_fused_rows_are_those_of_output_attentions,
    test_nothing_runs_behind_the_last_attention,
    test_rows_are_those_of_output_attentions,
    test_the_picture_is_read_once,
    test_the_tokens_of_an_answer_are_those_of_the_steps_that_take_them_in,
    test_what_layers_are_told_to_see_is_what_they_see,
    test_what_was_found_is_told,
)
from tests.llava.tiny_torchvision import TORCHVISION_FAMILIES


@pytest.fixture(scope="module", params=TORCHVISION_FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    return TORCHVISION_FAMILIES[request.param](tmp_path_factory.mktemp("families") / "tiny")


def test_several_beams_are_refused_where_transformers_fails_with_them(tmp_path):
    llama4 = load_model(str(TORCHVISION_FAMILIES["llama4"](tmp_path / "tiny")), device="cpu")
    with pytest.raises(UserError, match="num_beams=2: this family can be asked with one beam only"):
        collect(llama4, TALL, "a bird", ModelConfig(use_generate=True, max_new_tokens=2, num_beams=2))
