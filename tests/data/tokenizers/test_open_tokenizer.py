"""Tokenizers from files, sound and damaged."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from hard_texts import HARD_TEXTS
from tokenizer_files import (
    clip_merges,
    sentence_piece_model,
    write_clip_folder,
    write_openai_file,
)

from jaxgen.data.tokenizers import open_tokenizer, save_tokenizer, train_tokenizer
from jaxgen.errors import InputError

CAPTIONS = ["a red cube on a blue ball", "the green ball is left of a small cube"] * 3
SIZE = 514 + 20


@pytest.fixture(scope="module")
def merges():
    return clip_merges(CAPTIONS, 20)


@pytest.fixture(scope="module")
def model():
    return sentence_piece_model(CAPTIONS, 40)


def test_the_forms_of_clips_vocabulary_give_the_same_ids(tmp_path, merges):
    files = {name: tmp_path / name for name in ("openai", "pair", "json")}
    for folder in files.values():
        folder.mkdir()
    write_openai_file(files["openai"] / "bpe_simple_vocab_16e6.txt.gz", merges)
    write_clip_folder(files["pair"], merges)
    save_tokenizer(open_tokenizer(files["pair"]), files["json"])
    opened = {name: open_tokenizer(folder) for name, folder in files.items()}
    found = {name: t.encode(HARD_TEXTS, truncate=True) for name, t in opened.items()}
    for name, tokenizer in opened.items():
        assert (tokenizer.size, tokenizer.length) == (SIZE, 77)
        assert (tokenizer.start, tokenizer.end) == (SIZE - 2, SIZE - 1)
        np.testing.assert_array_equal(found[name].mask, found["pair"].mask)
        same = np.where(found[name].mask, found[name].ids == found["pair"].ids, True)
        assert same.all()
    assert opened["openai"].pad == 0
    assert opened["pair"].pad == opened["json"].pad == SIZE - 1


def test_a_file_alone(tmp_path, merges, model):
    write_openai_file(tmp_path / "bpe.gz", merges)
    write_clip_folder(tmp_path, merges)
    (tmp_path / "T5.MODEL").write_bytes(model)
    ids = [open_tokenizer(tmp_path / n).encode(["a red"]).ids for n in ("bpe.gz", "merges.txt")]
    np.testing.assert_array_equal(*ids)
    assert open_tokenizer(tmp_path / "T5.MODEL").end == 1


def test_what_the_files_beside_it_say(tmp_path, merges):
    """The second file wins, as for Stable Diffusion 2, whose files disagree on padding."""
    config = {"model_max_length": 20, "pad_token": "<|endoftext|>", "tokenizer_class": "any"}
    write_clip_folder(tmp_path, merges, **config)
    opened = open_tokenizer(tmp_path)
    assert (opened.pad, opened.length) == (SIZE - 1, 20)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!"}}))
    assert open_tokenizer(tmp_path).pad == 0
    assert open_tokenizer(tmp_path, pad=5, length=30).encode(["a"]).ids[0, 3:].tolist() == [5] * 27
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": int(1e30)}))
    assert open_tokenizer(tmp_path).length == 77  # what transformers writes where nobody said one


def test_a_tokenizer_without_a_length_stays_one(tmp_path):
    for kind, size in (("words", 30), ("bpe", 520)):
        save_tokenizer(train_tokenizer(CAPTIONS, size, kind), tmp_path / kind)
        assert open_tokenizer(tmp_path / kind).length is None


def test_padding_that_is_a_sign_of_texts(tmp_path, merges):
    """Stable Diffusion 2 pads with "!": text unless asked, also where merges are made of it."""
    pair = tmp_path / "pair"
    pair.mkdir()
    write_clip_folder(pair, [*merges, ("!", "!</w>")], pad_token="!")
    save_tokenizer(open_tokenizer(pair), tmp_path / "json")
    for folder in (pair, tmp_path / "json"):
        opened = open_tokenizer(folder)
        both = SIZE - 2  # of "!!"; start and end come after it
        assert (opened.pad, opened.start, opened.end) == (0, both + 1, both + 2)
        cube = opened.encode(["cube"]).ids[0, 1]
        text = opened.encode(["cube! !!"])
        assert text.ids[0, :6].tolist() == [both + 1, cube, 256, both, both + 2, 0]
        special = opened.encode(["cube! !!"], special=True)
        assert special.ids[0, :6].tolist() == [both + 1, cube, 0, 0, 0, both + 2]
        assert special.mask[0].sum() == 6
        assert opened.decode(text.ids) == ["cube ! !!"]


def test_what_a_tokenizer_json_says_itself(tmp_path):
    """Without other files: its own truncation, padding and tokens around a text."""
    import tokenizers

    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}, "[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"

    def opened():
        backend.save(str(path))
        return open_tokenizer(path)

    with pytest.raises(InputError, match=r"tokenizer\.json: no file says what padding is"):
        opened()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    found = opened()
    assert (found.start, found.end, found.pad, found.length) == (1, 2, 2, None)
    backend.enable_truncation(max_length=9)
    backend.enable_padding(pad_id=0, pad_token="[UNK]")
    found = opened()
    assert (found.pad, found.length) == (0, 9)
    assert found.encode(["a a"]).ids.tolist() == [[1, 3, 3, 2, 0, 0, 0, 0, 0]]
    backend.post_processor = tokenizers.processors.Sequence(
        [
            tokenizers.processors.ByteLevel(),
            tokenizers.processors.TemplateProcessing("$A [SEP]", special_tokens=[("[SEP]", 2)]),
        ]
    )
    assert (opened().start, opened().end) == (None, 2)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] [CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    with pytest.raises(InputError, match="2 tokens before a text and 0 after it, expected at most"):
        opened()


def test_spiece_model_of_t5(tmp_path, model):
    path = tmp_path / "spiece.model"
    path.write_bytes(model)
    opened = open_tokenizer(tmp_path)
    pieces = opened.size - 100
    assert (opened.pad, opened.start, opened.end, opened.length) == (0, None, 1, None)
    texts = ["a red cube", "", "left of</s>"]
    found = opened.encode(texts)
    assert opened.decode(found.ids) == [*texts[:2], "left of ⁇ s ⁇ "]
    assert (found.ids == 1).sum(1).tolist() == [1, 1, 1]
    special = opened.encode(["a</s> <extra_id_0> b<pad><unk>"], special=True)
    assert [i for i in special.ids[0].tolist() if i in {0, 1, 2} or i >= pieces] == [
        *(1, pieces + 99, 0, 2, 1)
    ]
    assert special.word_indices[0].tolist()[-4:] == [2, 2, 2, -1]
    assert opened.decode([[pieces + 99, 3, pieces, 1]]) == ["<extra_id_0>  <extra_id_99>"]
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 0, "model_max_length": 512}')
    assert (open_tokenizer(path).size, open_tokenizer(path).length) == (pieces, 512)
    (tmp_path / "again").mkdir()
    save_tokenizer(dataclasses.replace(opened, length=64), tmp_path / "again")
    again = open_tokenizer(tmp_path / "again")
    assert (again.size, again.length, again.pad) == (pieces + 100, 64, 0)
    np.testing.assert_array_equal(
        again.encode(texts, length=30).ids, opened.encode(texts, length=30).ids
    )


def test_spiece_model_of_another_model(tmp_path):
    other = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    (tmp_path / "spiece.model").write_bytes(sentence_piece_model(CAPTIONS, 40, **other))
    opened = open_tokenizer(tmp_path)
    assert (opened.pad, opened.start, opened.end) == (2, None, 2)
    assert opened.vocabulary.extra_ids == 0


def test_cleaning_is_for_clip(tmp_path, merges, model):
    write_clip_folder(tmp_path, merges)
    cleaned = open_tokenizer(tmp_path, clean="openai")
    found = cleaned.encode(["“A  Cube” &amp;amp; ﬁne ΣΑΣ"])
    assert found.texts == ('"a cube" & fine σας',)
    plain = open_tokenizer(tmp_path).encode(['"a cube" & fine σας'])
    np.testing.assert_array_equal(found.ids, plain.ids)
    (tmp_path / "spiece.model").write_bytes(model)
    with pytest.raises(InputError, match="clean is 'openai', which is for CLIP, expected 'plain'"):
        open_tokenizer(tmp_path / "spiece.model", clean="openai")
    with pytest.raises(InputError, match="clean is 'full', expected one of"):
        open_tokenizer(tmp_path, clean="full")


def test_a_folder_without_a_tokenizer(tmp_path, merges):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(InputError) as error:
        open_tokenizer(tmp_path)
    for name in ("tokenizer.json", "vocab.json with merges.txt", "spiece.model", "bpe_simple"):
        assert name in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(InputError, match=r"; tokenizer_config\.json says BertTokenizer"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    write_clip_folder(tmp_path / "tokenizer", merges)
    with pytest.raises(InputError, match="; the folder tokenizer in it holds one"):
        open_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_tokenizer(tmp_path / "nowhere")
    (tmp_path / "vocab.txt2").write_text("a")
    with pytest.raises(InputError, match=r"vocab\.txt2, expected a file \*\.json, \*\.model"):
        open_tokenizer(tmp_path / "vocab.txt2")


def write_json(tmp_path, change):
    save_tokenizer(train_tokenizer(CAPTIONS, 30), tmp_path)
    found = json.loads((tmp_path / "tokenizer.json").read_text())
    change(found)
    (tmp_path / "tokenizer.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda f: f.pop("model"), "no field model"),
        (lambda f: f["model"].pop("vocab"), "the model has no vocab"),
        (lambda f: f["model"].update(type="Martian"), "damaged, or of a newer format"),
        (lambda f: f["post_processor"].pop("single"), "damaged, or of a newer format"),
        (lambda f: f.update(post_processor={"type": "Martian"}), "post_processor is Martian"),
        (lambda f: f["model"]["vocab"].update(ball="x"), "the model has no vocab, expected"),
    ],
)
def test_a_damaged_tokenizer_json(tmp_path, change, fault):
    write_json(tmp_path, change)
    with pytest.raises(InputError, match=rf"tokenizer\.json: .*{fault}") as error:
        open_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("tokenizer.json", b"", "the file is empty"),
        ("tokenizer.json", b'{"model": {', r"tokenizer\.json: damaged, expected JSON"),
        ("tokenizer.json", b"[]", "no field model"),
        ("vocab.json", b'{"a": "b"}', r"vocab\.json, expected a JSON object of tokens"),
        ("vocab.json", b'{"a": 1, "b": 1}', "two tokens have one id"),
        ("vocab.json", b'{"a": 1}', "no token '<|startoftext|>', expected start and end"),
        (
            "vocab.json",
            b'{"<|startoftext|>": 1, "<|endoftext|>": 2}',
            "no token '.*', expected thos",
        ),
        ("vocab.json", b"\xff\xfe{", "UTF-16"),
        (
            "merges.txt",
            b"#version: 0.2\na b</w>\nabc\n",
            r"merges\.txt: line 3 is 'abc', expected t",
        ),
        ("merges.txt", "#version: 0.2\nĠ t\n".encode(), "no symbol ends with </w>, expected CLIP"),
        ("merges.txt", b"a\xc3\n", "not utf-8 text"),
        ("spiece.model", b"", "the file is empty"),
        ("spiece.model", b"<html>" * 9, "damaged, expected a SentencePiece model"),
        ("bpe_simple_vocab_16e6.txt.gz", b"\x1f\x8bxx", "damaged or truncated gzip"),
        ("tokenizer_config.json", b"{", r"tokenizer_config\.json: damaged, expected JSON"),
        ("tokenizer_config.json", b"[]", "is a JSON list, expected an object"),
        ("tokenizer_config.json", b'{"model_max_length": "x"}', "model_max_length is 'x'"),
        ("tokenizer_config.json", b'{"pad_token": "<x>"}', "pad_token is '<x>', expected one of"),
    ],
)
def test_damaged_files(tmp_path, merges, name, content, fault):
    if name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        write_clip_folder(tmp_path, merges)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=fault.replace("|", r"\|")) as error:
        open_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "bpe_simple_vocab_16e6.txt.gz"],
)
def test_pointers_of_git_lfs(tmp_path, merges, name):
    """What a clone without Git LFS leaves in place of files."""
    if name in ("vocab.json", "merges.txt"):
        write_clip_folder(tmp_path, merges)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 791656\n"
    (tmp_path / name).write_bytes(pointer)
    with pytest.raises(InputError, match=rf"{name}: a pointer of Git LFS; fetch the file itself"):
        open_tokenizer(tmp_path)


def test_a_package_that_is_not_installed(tmp_path, merges, model, monkeypatch):
    write_clip_folder(tmp_path, merges)
    (tmp_path / "spiece.model").write_bytes(model)
    cleaned = open_tokenizer(tmp_path, clean="openai")
    for name in ("tokenizers", "sentencepiece", "ftfy"):
        monkeypatch.setitem(sys.modules, name, None)
    match = r"extra jaxgen\[text\]"
    with pytest.raises(InputError, match=match):
        open_tokenizer(tmp_path)
    with pytest.raises(InputError, match=match):
        open_tokenizer(tmp_path / "spiece.model")
    with pytest.raises(InputError, match=match):
        cleaned.encode(["a"])


def test_real_vocabularies(data_folder):
    """Ids that are published for CLIP's, T5's and SentencePiece's own vocabularies."""
    folder = data_folder / "text"
    clip = open_tokenizer(folder / "clip_bpe")
    assert (clip.size, clip.start, clip.end, clip.pad, clip.length) == (49408, 49406, 49407, 0, 77)
    found = clip.encode(["a photo of a cat"])
    assert found.ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert clip.decode(found.ids) == ["a photo of a cat"]
    t5 = open_tokenizer(folder / "t5_v1_1")
    assert (t5.size, t5.pad, t5.start, t5.end) == (32100, 0, None, 1)
    text = "A photo of a corgi riding a red bicycle."
    assert t5.encode([text]).ids.tolist() == [
        [71, 1202, 13, 3, 9, 4301, 122, 23, 7494, 3, 9, 1131, 12679, 5, 1]
    ]
    assert t5.decode(t5.encode([text]).ids) == [text]
    own = open_tokenizer(folder / "sentencepiece" / "test_model.model")
    found = own.encode(["I saw a girl with a telescope."])
    assert found.ids[0, :8].tolist() == [9, 459, 11, 939, 44, 11, 4, 142]


@pytest.mark.slow
def test_settings_of_published_pipelines(data_folder, tmp_path):
    """With OpenAI's vocabulary beside them."""
    folder = data_folder / "text"
    clip = open_tokenizer(folder / "clip_bpe")
    lengths_and_padding = {
        "runwayml/stable-diffusion-v1-5/tokenizer": (77, 49407),
        "stabilityai/stable-diffusion-2-1/tokenizer": (77, 0),
        "stabilityai/stable-diffusion-xl-base-1.0/tokenizer": (77, 49407),
        "stabilityai/stable-diffusion-xl-base-1.0/tokenizer_2": (77, 0),
        "stabilityai/stable-diffusion-3-medium-diffusers/tokenizer": (77, 49407),
        "stabilityai/stable-diffusion-3-medium-diffusers/tokenizer_2": (77, 0),
        "black-forest-labs/FLUX.1-schnell/tokenizer": (77, 49407),
    }
    merges = [tuple(pair) for pair in clip.vocabulary.definition["model"]["merges"]]
    write_clip_folder(tmp_path, merges)
    for name, expected in lengths_and_padding.items():
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            shutil.copyfile(folder / "hub_configs" / name / file, tmp_path / file)
        opened = open_tokenizer(tmp_path)
        assert (opened.length, opened.pad) == expected
    shutil.rmtree(tmp_path)
    shutil.copytree(
        folder / "hub_configs" / "Tencent-Hunyuan/HunyuanDiT-Diffusers/tokenizer", tmp_path
    )
    with pytest.raises(InputError, match=r"holds no tokenizer.* BertTokenizer"):
        open_tokenizer(tmp_path)
