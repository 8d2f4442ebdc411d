"""Changed heads against a literal change of whole weight rows, in every family, grouped queries, eager and fused."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from collector import collect, prepare
from lab.ablate.asking import Part, ReadPicture
from lab.ablate.changes import cut, moved, said
from lab.ablate.hooks import acting
from lab.attention.capture import Wanted, attention_modules, use_attention
from lab.base.errors import UserError
from lab.stations import positions
from llava.family import Sharing
from llava.model.builder import load_model
from tests.llava.tiny_chat import CHAT_FAMILIES
from tests.llava.tiny_families import FAMILIES, MISTRAL, write_llava

IMAGE = Image.fromarray(np.random.default_rng(5).integers(0, 255, (144, 240, 3), dtype=np.uint8))
QUERIES = ("a bird", "the red ball on the left")
ANSWER = (7, 11, 5)
HEADS = ((0, 1), (1, 2), (1, 3), (2, 0))  # of 3 layers x 4 heads that share 2 keys and values
KINDS = {**FAMILIES, "llava, sliding": lambda folder: write_llava(folder, {**MISTRAL, "sliding_window": 40})}


@pytest.fixture(scope="module", params=KINDS)
def tiny(request, tmp_path_factory):
    return load_model(str(KINDS[request.param](tmp_path_factory.mktemp("ablate") / "tiny")), device="cpu")


@pytest.fixture(params=["eager", "fused"])
def loaded(request, tiny):
    use_attention(tiny.model, request.param)
    return tiny


def mask(*heads) -> torch.Tensor:
    found = torch.zeros(1, 3, 4, dtype=torch.bool)
    for head in heads:
        found[(0, *head)] = True
    return found


def whole(loaded, question, number=0, answer=ANSWER) -> torch.Tensor:
    """The logits behind the last prompt token and each of the answer, from one ordinary forward."""
    ids = torch.tensor([question.prompts[number].ids + answer])
    with torch.inference_mode():
        inputs = loaded.family.inputs([question.picture])
        inputs |= loaded.family.text_inputs(ids, inputs)
        output = loaded.model(input_ids=ids, **inputs, use_cache=False)
    return output.logits[0, -1 - len(answer) :]


def literally(loaded, question, edit, number=0, onward=True) -> torch.Tensor:
    """The same with `edit(weights, values, image)` on whole rows [keys] of the changed heads, query by query."""
    use_attention(loaded.model, "eager")
    modules = attention_modules(loaded.model)
    file = sys.modules[type(modules[0]).__module__]
    original, prompt = file.eager_attention_forward, question.prompts[number]
    image, last = positions(prompt.stations, "image"), len(prompt.ids) - 1

    def changed(module, query, key, value, attention_mask, **options):
        output, weights = original(module, query, key, value, attention_mask, **options)
        layer = modules.index(module) if module in modules else None
        for head in (h for at, h in HEADS if at == layer):
            of_head = value[0, head // module.num_key_value_groups]
            for token in range(last, query.shape[2] if onward else last + 1):
                output[0, token, head] = edit(weights[0, head, token].clone(), of_head, image, layer, head)
        return output, weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "eager_attention_forward", changed)
        return whole(loaded, question, number)


def somewhere(tokens: int) -> torch.Tensor:
    weights = torch.rand(3, 4, tokens, generator=torch.Generator().manual_seed(1))
    return weights / weights.sum(-1, keepdim=True)


def move_rows(to):
    def edit(row, values, image, layer, head):
        row[image] = row[image].sum() * to[layer, head]
        return row @ values

    return edit


def cut_rows(row, values, image, _layer, _head):
    row[image] = 0
    return row / row.sum() @ values


CHANGES = {
    "moved": (moved, lambda tokens: list(somewhere(tokens)), lambda tokens: move_rows(somewhere(tokens))),
    "cut": (cut, lambda _: [torch.zeros(1, 8)] * 3, lambda _: cut_rows),
    "zero": (said, lambda _: [torch.zeros(1, 8)] * 3, lambda _: lambda row, values, *_: 0 * values[0]),
}


@pytest.mark.parametrize("onward", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_what_it_says(loaded, change, onward):
    question = prepare(loaded, IMAGE, QUERIES)
    function, to, edit = CHANGES[change]
    heads = torch.cat([mask(), mask(*HEADS), mask((2, 3))])
    part = Part(ANSWER, heads, function, to(question.picture.tokens), onward)
    found = ReadPicture(loaded, question).say(1, [part])[0].logits
    expected = literally(loaded, question, edit(question.picture.tokens), number=1, onward=onward)
    torch.testing.assert_close(found[1], expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(found[0], whole(loaded, question, 1), rtol=0, atol=2e-5)
    assert (found[0] - found[1]).abs().max() > 0.01
    assert (found[0] - found[2]).abs().max() > 1e-4


def test_heads_moved_to_where_they_look_and_no_heads_change_nothing(loaded):
    question = prepare(loaded, IMAGE, QUERIES)
    picture = ReadPicture(loaded, question)
    looked = picture.look()[0][:, 0, :, 0]
    own = list(looked / looked.sum(-1, keepdim=True))
    found = picture.say(0, [Part((), torch.cat([mask(), mask(*HEADS)]), moved, own)])[0].logits
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-5)


def test_what_is_seen_is_what_a_record_holds(loaded):
    question = prepare(loaded, IMAGE, QUERIES)
    rows, outputs = ReadPicture(loaded, question).look()
    for number, query in enumerate(QUERIES):
        np.testing.assert_allclose(rows[:, 0, :, number, None], collect(loaded, IMAGE, query).attn, rtol=0, atol=1e-5)
    assert [tuple(output.shape) for output in outputs] == [(2, 4, 8)] * 3


def test_many_copies_in_several_forwards_are_as_one_alone(loaded, monkeypatch):
    question = prepare(loaded, IMAGE, QUERIES)
    heads, places = torch.cat([mask((layer, 1)) for layer in (0, 1, 2)]), torch.rand(2, question.picture.tokens)
    parts = [Part(answer, heads, said, [torch.zeros(1, 8)] * 3, places=places) for answer in (ANSWER, (), (3,))]
    together = ReadPicture(loaded, question).say(0, parts)
    monkeypatch.setattr("lab.ablate.asking.MOST_TOKENS", {"cpu": 4, "cuda": 4})
    picture = ReadPicture(loaded, question)
    for _ in range(2):  # the cache holds the picture alone again
        apart = picture.say(0, parts)
        assert [one.logits.shape[:2] for one in apart] == [(3, 4), (3, 1), (3, 2)]
        for one, other in zip(together, apart, strict=True):
            torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=2e-5)
            torch.testing.assert_close(one.looked, other.looked, rtol=0, atol=2e-5)


@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_it_is_told_where_every_head_then_looks(loaded, attention):
    question = prepare(loaded, IMAGE, QUERIES)
    use_attention(loaded.model, attention)
    places = torch.eye(question.picture.tokens)  # every token is a place
    heads, zeros = torch.cat([mask(), mask(*HEADS)]), [torch.zeros(1, 8)] * 3
    looked = ReadPicture(loaded, question).say(0, [Part(ANSWER, heads, said, zeros, places=places)])[0].looked
    np.testing.assert_allclose(looked[0], collect(loaded, IMAGE, QUERIES[0]).attn[:, :, 0], rtol=0, atol=2e-5)
    first = min(layer for layer, _ in HEADS)
    torch.testing.assert_close(looked[1, : first + 1], looked[0, : first + 1], rtol=0, atol=2e-5)
    assert (looked[1] - looked[0])[first + 1 :].abs().max() > 1e-4


class Stop(Exception):
    pass


def stop(*_):
    raise Stop


def test_the_model_is_left_exactly_as_it_was(loaded):
    question = prepare(loaded, IMAGE, QUERIES)
    before = whole(loaded, question)
    picture = ReadPicture(loaded, question)
    picture.look()
    picture.say(0, [Part(ANSWER, mask(*HEADS), said, [torch.zeros(1, 8)] * 3)])
    assert torch.equal(whole(loaded, question), before)
    with pytest.raises(Stop):
        picture.say(0, [Part(ANSWER, mask(*HEADS), stop, [torch.zeros(1, 8)] * 3)])
    assert torch.equal(whole(loaded, question), before)
    with pytest.raises(Stop), acting(loaded.model, lambda *_: None, Wanted(torch.zeros(1, 1, dtype=torch.long))):
        raise Stop
    assert torch.equal(whole(loaded, question), before)
    assert not any("acting" in vars(module) for module in loaded.model.modules())


def test_a_model_that_reads_both_ways_is_refused(loaded):
    alone = replace(loaded, family=replace(loaded.family, sharing=Sharing.ALONE))
    with pytest.raises(UserError, match="reads a picture and its expression together"):
        ReadPicture(alone, prepare(loaded, IMAGE, QUERIES))


@pytest.mark.parametrize("kind", CHAT_FAMILIES)
def test_every_family_says_behind_the_cache_what_it_says_in_one_forward(kind, tmp_path):
    loaded = load_model(str(CHAT_FAMILIES[kind](tmp_path / "tiny")), device="cpu")
    question = prepare(loaded, IMAGE, QUERIES)
    if loaded.family.sharing is Sharing.ALONE:
        with pytest.raises(UserError, match="together"):
            ReadPicture(loaded, question)
        return
    expected, record = whole(loaded, question, 1), collect(loaded, IMAGE, QUERIES[1])
    heads = torch.zeros(2, loaded.num_layers, loaded.num_heads, dtype=torch.bool)
    heads[1, :, 1] = True
    for attention in ("eager", "fused"):
        use_attention(loaded.model, attention)
        picture = ReadPicture(loaded, question)
        rows, outputs = picture.look()
        np.testing.assert_allclose(rows[:, 0, :, 1, None], record.attn, rtol=0, atol=2e-5)
        zeros = [torch.zeros(1, output.shape[-1]) for output in outputs]
        untouched, changed = picture.say(1, [Part(ANSWER, heads, said, zeros)])[0].logits
        torch.testing.assert_close(untouched, expected, rtol=0, atol=5e-5)
        assert (untouched - changed).abs().max() > 1e-3
