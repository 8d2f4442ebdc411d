"""Errors of reading, told in words."""

import zipfile

import pytest

from lab.base.errors import UserError, in_words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("num_layers"), "it lacks 'num_layers'"),
        (IndexError("list index out of range"), "it ends too soon"),
        (EOFError(), "it ends too soon"),
        (TypeError("string indices must be integers"), "a part of it is of another type"),
        (AttributeError("'int' object has no attribute 'keys'"), "a part of it is of another type"),
        (zipfile.BadZipFile("File is not a zip file"), "File is not a zip file"),
        (ValueError("a frequency\nthat is not between 0 and 1"), "a frequency that is not between 0 and 1"),
        (ValueError(), "it is damaged"),
        (UserError("id 'a' is there twice"), "id 'a' is there twice"),
    ],
)
def test_an_error_of_reading_is_told_in_words_without_its_class(error, words):
    assert in_words(error) == words
