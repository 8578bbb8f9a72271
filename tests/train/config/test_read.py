"""A TOML file and `--set`: what is written is what is meant, or is refused by one sentence, at once."""

import os
import random
import resource
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.config import load
from train.config.config import NAMES
from train.config.elsewhere import ELSEWHERE, NOTES
from train.errors import UserError

TEXT = (
    "[model]\nwidth = 16\nheads = 2\ndepth = 1\n[data]\nlength = 12\nbatch = 4\n[train]\nsteps = 2\n[run]\nout = 'x'\n"
)


def refused(file, text, *words):
    """Why a file or settings are refused: one short sentence."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as error:
        load(file, words)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("path=123", "123"),
        ("path=2024-01-01", "2024-01-01"),
        ("path=true", "true"),
        ("path=book#1.txt", "book#1.txt"),
        ('path="a book.txt"', "a book.txt"),
        ('path="a" # b', '"a" # b'),
        ("data.path=a=b", "a=b"),
        ("path=[1]", "[1]"),
        ("lr=1e-2", 0.01),
        ("lr= 1", 1.0),
        ("seed=0x10", 16),
        ("steps=1_000", 1000),
    ],
)
def test_a_setting_is_what_it_says(file, setting, value):
    assert load(file, (setting,)).flat()[setting.partition("=")[0].removeprefix("data.")] == value


@pytest.mark.parametrize(
    "setting",
    ["z_loss=1\n[model]\nwidth=3", "z_loss=1\nx=3", "z_loss=1 # 2", "z_loss=1]\nb=[2", "z_loss=1, 2", "z_loss="],
)
def test_what_follows_a_value_is_not_dropped(file, setting):
    assert refused(file, TEXT, setting).endswith("is not a number")


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ("[grid.product]\nof = 1", "of takes a list of grids, not 1"),
        ("[grid.product]\nof = 'ab'", "of takes a list of grids, not 'ab'"),
        ("[grid.product]\nof = []", "of takes a list of grids, not []"),
        ("[grid.product]\nof = [1]", "a grid is one of product, zip, chain, sample, not 1"),
        ("[grid.produkt]\nlr = [0.1]", "grid='produkt' is unknown; did you mean 'product'?"),
        ("[grid]\nlr = [0.1]", "grid='lr' is unknown; use one of product, zip, chain, sample"),
        ("[grid]\nzip = {}\nproduct = {}", "a grid is one of product, zip, chain, sample, not zip and "),
        ("[grid.product]\nof = {zip = {lr = [1.0]}}", "of takes a list of grids, not {'zip'"),
        ("[grid.product]\nlr = [0.1]\n'train.lr' = [0.2]", "lr stands twice, once as train.lr; write it once"),
        ("[grid.product]\nparametrization = ['mupp']", "parametrization='mupp' is unknown; did you mean"),
        ("[grid.product]\nparametrization = [0]", "parametrization=0 is no name"),
        ("[grid.product]\n\"a\\nb\" = [0.1]", "setting='a\\nb' has control characters"),
        ("[grid.product]\nbalance = [0.1, 0.2]", "balance=0.1 does nothing: the model of its cell has no such loss"),
        ("[grid.product]\nffn = ['moe', 'mlp']\nrouter_z = [0.1]", "router_z=0.1 does nothing: the model of its cell"),
        ("[grid.zip]\nmtp = [0.1]", "mtp=0.1 does nothing"),
        ("[grid.product]\n" + "\n".join(f"{name} = {list(range(1, 100))}" for name in ("seed", "steps", "warmup")),
         "a grid of 970299 cells is too large; use 10000 or fewer, in several sweeps"),
        ("[grid]\nchain = [" + "{product = {seed = [1,2,3,4,5,6,7,8,9], steps = [1,2,3,4,5,6,7,8,9]}}," * 200 + "]",
         "a grid of 10044 cells is too large"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_grids_that_are_none(file, grid, sentence):
    assert refused(file, TEXT + grid).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("learning_rate", "did you mean 'lr'?"),
        ("n_layer", "did you mean 'depth'?"),
        ("d_model", "did you mean 'width'?"),
        ("num_heads", "did you mean 'heads'?"),
        ("hidden_size", "did you mean 'width'?"),
        ("batch_size", "did you mean 'batch'?"),
        ("train.dropout", "did you mean 'model.dropout'?"),
        ("model.lr", "did you mean 'train.lr'?"),
        ("hidden-dim", "did you mean 'width' or 'inner'?"),
        ("min_lr", "did you mean 'final', a share of lr?"),
        ("epochs", "did you mean 'steps', in steps?"),
        ("zzz", "python -m train settings prints all of them"),
    ],
)
def test_a_name_of_elsewhere_is_answered_by_ours(file, name, hint):
    sentence = f"setting={name!r} is unknown; {hint}"
    assert refused(file, TEXT, f"{name}=1") == sentence
    assert refused(file, TEXT + f"[grid.product]\n'{name}' = [1]") == sentence
    section, _, key = name.rpartition(".")
    written = f"{section or 'data'}.{key}"
    swapped = sentence.replace(repr(name), repr(written), 1)
    assert refused(file, TEXT.replace(f"[{section or 'data'}]\n", f"[{section or 'data'}]\n{key} = 1\n")) == swapped


def test_names_of_elsewhere_are_none_of_ours():
    theirs = {name for names in ELSEWHERE.values() for name in names.split()}
    assert set(NAMES) >= set(ELSEWHERE) and not set(NAMES) & theirs and theirs >= set(NOTES)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("norm = 'rsm'", "norm='rsm' is unknown; did you mean 'rms'?"),
        ("qk_norm = 'rsm'", "qk_norm='rsm' is unknown; did you mean 'rms'?"),
        ("tiny = 'gtp2'", "tiny='gtp2' is unknown; did you mean 'gpt2'?"),
        ("heads = 16", "width=16 over heads=16 gives a head 1 channels, which position='rotary' cannot turn"),
    ],
)
def test_a_setting_of_the_model_is_refused_by_its_own_name(file, settings, sentence):
    assert refused(file, TEXT.replace("heads = 2\n", "").replace("[model]", f"[model]\n{settings}")).startswith(
        sentence
    )


def test_the_cell_that_cannot_be_is_named(file):
    said = refused(file, TEXT + "[grid.product]\nheads = [1, 2, 3]\nseed = [0, 1]")
    assert said.startswith("the cell heads=3, seed=0 of the grid cannot be: heads=3 does not divide width=16")
    said = refused(file, TEXT + "[grid.product]\nbatch = [8, 9]\naccumulate = [1, 4]")
    assert said == (
        "the cell batch=9, accumulate=4 of the grid cannot be: accumulate=4 does not divide batch=9; "
        "use 3, or another divisor"
    )


def test_settings_beside_a_grid_need_be_no_run_by_themselves(file):
    """Four heads do not divide 30, but no cell has four."""
    file.write_text("[model]\nwidth = 30\n[grid.product]\nheads = [3, 5]\n")
    config = load(file)
    assert [config.cell(cell).spec().stack.blocks[0].attention.heads for cell in config.cells] == [3, 5]


def test_a_swept_weight_that_each_cell_reads_is_taken(file):
    file.write_text(TEXT + "[[grid.chain]]\nproduct = {ffn = ['moe'], balance = [0.0, 0.1], lr = [0.1, 0.2]}\n"
                    + "[[grid.chain]]\nproduct = {ffn = ['mlp'], lr = [0.1]}\n")  # fmt: skip
    assert len(load(file).cells) == 5


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_two_names_of_one_setting_are_one(file):
    assert refused(file, TEXT + "[train]\n").startswith(f"{file} is not TOML")
    assert refused(file, TEXT.replace("steps = 2", "mtp = 1\nahead = 2")).startswith("mtp stands twice")


def test_what_is_not_a_configuration_is_refused_at_once(tmp_path, file):
    os.mkfifo(tmp_path / "pipe")
    for path, sentence in (
        (tmp_path / "pipe", f"{tmp_path / 'pipe'} is not a file; give a TOML file"),
        (tmp_path, f"{tmp_path} is a folder; give a TOML file"),
        ("/dev/zero", "/dev/zero is not a file"),
        (tmp_path / "a\0b", "configuration='"),
        (tmp_path / ("n" * 300), "cannot be read: File name too long"),
        (file / "within", "there is no configuration"),
    ):
        with pytest.raises(UserError) as error:
            load(path)
        assert sentence in str(error.value) and "\n" not in str(error.value)
    assert "lists within lists" in refused(file, "a = " + "[" * 100_000)
    assert "has more than 1048576 bytes" in refused(file, TEXT + "#" * 2**20)
    assert "is not TOML" in refused(file, b"\xff\xfe")


VALUES = ["0", "1", "-1", "2147483647", "2147483648", "4294967296", "99999999", "1" * 30, "1" * 5000, "0x" + "f" * 5000]
VALUES += ["0.5", "-0.0", "1e-50", "1e39", "1e400", "nan", "inf", "-inf", "true", "''", "'a'", "'\\\\'", "'a\tb'", "[]"]
VALUES += ["[1]", "[[[[[[1]]]]]]", "{}", "{of = 1}", "2024-01-01", "12:00:00", "'causal'", "'adamw'", "'moe'"]
VALUES += ["['lr']", "['norm', 'placement']", "['loss']", "'each rate'"]
VALUES += [
    "'data=2'",
    "'data=99999999999'",
    '"\\u0000"',
    '"a\\nb"',
    "'" + "n" * 400 + "'",
    "=",
    "",
    "#",
    "'",
    "]",
    "\\",
]
KEYS = [*sorted({name for name in NAMES if "." not in name}), "of", "product", "zip", "chain", "vocab", "x", "'a b'"]
KEYS += [
    "sample",
    "when",
    "give",
    "keep",
    "count",
    "over",
    "compare",
    "across",
    "tune",
    "at",
    "measure",
    "smallest",
    "versus",
    "match",
    "by",
    "extend",
]
LINES = st.builds("{} = {}".format, st.sampled_from(KEYS), st.sampled_from(VALUES))
HEADERS = ["[model]", "[data]", "[train]", "[run]", "[grid.product]", "[grid.zip]", "[[grid.chain]]", "[x]", "[grid]"]
HEADERS += ["[question]", "[grid.sample]", "[grid.sample.over]", "[[grid.product.when]]"]
SWEPT = st.builds("[grid.product]\n{} = [{}, {}]".format, *map(st.sampled_from, (KEYS, VALUES, VALUES)))
LIMITS = {"derandomize": True, "database": None, "deadline": None}


def broken(seed):
    """The configuration with some of its bytes replaced, cut out or repeated."""
    draw = random.Random(seed)
    text = bytearray(TEXT + "[grid.product]\nlr = [0.1, 0.2]\nseed = [1, 2]\n", "utf8")
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(text))
        text[at : at + draw.randrange(3)] = draw.choice(
            [bytes([draw.randrange(256)]), text[at : at + 9], b"", b"]", b"9"]
        )
    return bytes(text)


MUTATED = st.one_of(
    st.lists(st.one_of(st.sampled_from(HEADERS), LINES), max_size=5).map(lambda lines: TEXT + "\n".join(lines)),
    st.builds(lambda header, line: f"{header}\n{line}", st.sampled_from(HEADERS), LINES),
    st.builds(lambda swept: TEXT + swept, SWEPT),
    st.integers(0, 10**6).map(broken),
    st.text(max_size=40).map(lambda text: text.encode("utf8", "surrogatepass")),
)
WORDS = st.one_of(
    st.builds("{}={}".format, st.sampled_from(sorted(NAMES)), st.sampled_from(VALUES)),
    st.builds("{}={}".format, st.sampled_from(sorted(NAMES)), st.text(max_size=12)),
    st.text(max_size=20),
)


def read_or_refused(file, words=()):
    """Loads, or is refused by one sentence; soon, and without much memory."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load(file, words)
    except UserError as error:
        assert "\n" not in str(error)
    assert time.monotonic() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "more than 1 GB"


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(max_examples=500, **LIMITS)
@given(text=MUTATED)
def test_any_file_is_read_or_refused_by_a_sentence(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "mutated.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf8", "surrogatepass"))
    read_or_refused(file)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(max_examples=500, **LIMITS)
@given(words=st.lists(WORDS, min_size=1, max_size=3))
def test_any_settings_are_read_or_refused_by_a_sentence(tmp_path_factory, words):
    file = tmp_path_factory.getbasetemp() / "set.toml"
    file.write_text(TEXT)
    read_or_refused(file, tuple(words))


MUP = TEXT.replace("steps = 2", "steps = 2\nparametrization = 'mup'\nbase_width = 16")


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        (
            TEXT,
            ("base_width=16",),
            "base_width=16 does nothing with parametrization='standard'; it is read by mup, com",
        ),
        (MUP, ("base_depth=2",), "base_depth=2 does nothing with parametrization='mup'; it is read by completep"),
        (
            MUP + "[grid.product]\nheads = [2, 4]",
            (),
            "heads varies, and parametrization='mup' takes each of its values",
        ),
        (
            MUP.replace("mup", "completep") + "[grid.product]\ndepth = [1, 2]",
            (),
            "depth varies, and parametrization='c",
        ),
    ],
)
def test_a_base_that_nothing_reads_and_one_that_is_not_said_are_refused(file, text, words, sentence):
    assert refused(file, text, *words).startswith(sentence)


def test_a_sweep_of_parametrisations_states_its_base_once(file):
    file.write_text(MUP + "[grid.product]\nparametrization = ['standard', 'mup']\nwidth = [16, 32]\ndepth = [1, 2]")
    cells = [load(file).with_settings(cell) for cell in load(file).cells]
    assert len(cells) == 8 and [cell.spec().head.scale for cell in cells] == [1] * 6 + [0.5] * 2
