"""Rules of the design that a program can check: who imports whom, what is documented, what is never written."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import flax.linen as nn
import pytest

import fxformer as fx
from fxformer import model
from fxformer.layers import bias, context, embed, head, residual
from fxformer.layers.attention import ATTENTION
from fxformer.layers.ffn import FFN
from fxformer.layers.project import FanIn
from fxformer.ops.dispatch import DISPATCHES
from fxformer.ops.rotary import PAIRINGS, SCALINGS
from fxformer.ops.route import ROUTERS
from fxformer.zoo.toy import ATTENTIONS, FFNS, POSITIONS, toy

ROOT = Path(fx.__file__).parent
pytestmark = pytest.mark.quick
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in FILES}
LAYERS = (  # from the ground up: a file imports from its own layer or from below
    ("fields.py", "jit.py", "table.py"),
    ("written.py",),
    ("coords.py", "axes.py", "lookup.py", "walk.py"),
    ("ops/",),
    ("cache.py",),
    ("layers/",),
    ("block.py", "pipeline.py"),
    ("stack.py", "mtp.py"),
    ("transformer.py",),
    ("given.py",),
    ("model.py", "layer.py"),
    ("decode/", "lora.py", "sharding.py", "accounting.py"),
)


def imports(tree: ast.AST) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def level(name: str) -> int | None:
    return next((i for i, layer in enumerate(LAYERS) if name.startswith(layer)), None)


def file_of(module: str) -> str | None:
    """The file of a module of the library, "ops/norm.py", or None for something else."""
    path = module.removeprefix("fxformer.").replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in TREES), None)


@pytest.mark.parametrize("name", [name for name in TREES if level(name) is not None])
def test_files_import_from_below(name):
    for module in imports(TREES[name]):
        target = file_of(module) if module.startswith("fxformer.") else None
        if target is not None:
            assert level(target) is not None and level(target) <= level(name), f"{name} imports {target}"


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith(("ops/", "cache", "coords", "axes"))])
def test_functions_on_arrays_need_no_framework(name):
    assert not {module.split(".")[0] for module in imports(TREES[name])} & {"flax", "optax", "train"}


def test_the_alphabet_imports_nothing():
    assert imports(TREES["axes.py"]) == set()


@pytest.mark.parametrize("name", TREES)
def test_the_library_does_not_know_the_laboratory(name):
    assert not {module for module in imports(TREES[name]) if module.split(".")[0] == "train"}


def forbidden(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="hasattr")):
                yield f"{node.lineno}: hasattr"
            case ast.Call(func=ast.Name(id="getattr"), args=[_, _, _]):
                yield f"{node.lineno}: getattr with a default"
            case ast.FunctionDef(args=ast.arguments(kwarg=ast.arg(arg=arg, annotation=kind))) if not _keeps(kind):
                yield f"{node.lineno}: **{arg} passing through"
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv"):
                yield f"{node.lineno}: an environment variable"
            case ast.Global():
                yield f"{node.lineno}: module-level mutable state"
            case ast.Attribute(attr="sow"):
                yield f"{node.lineno}: sow"


def _keeps(kind: ast.expr | None) -> bool:
    """A decorator's own function takes what the decorated one takes, and a type checker holds it to that."""
    return kind is not None and ast.unparse(kind) == "P.kwargs"


@pytest.mark.parametrize("name", TREES)
def test_what_is_never_written(name):
    assert list(forbidden(TREES[name])) == []


def test_the_list_of_what_is_never_written_bites():
    wrong = "def f(x, **kw):\n    global y\n    return hasattr(x, 'a'), getattr(x, 'a', 1), os.environ, x.sow()"
    assert len(list(forbidden(ast.parse(wrong)))) == 6


SPEC_TYPES = {
    node.name
    for name, tree in TREES.items()
    if name.startswith(
        ("layers/", "block", "stack", "transformer", "model", "ops/mask", "ops/rotary", "ops/route", "ops/dispatch")
    )
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)
}


@pytest.mark.parametrize("name", TREES)
def test_no_file_asks_a_spec_for_its_type(name):
    """A type is a key of a table; whoever asks isinstance chooses a variant in the wrong file."""
    assert {"GQA", "MLP", "Window", "YaRN", "Residual", "Transformer"} <= SPEC_TYPES
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            assert not asked & SPEC_TYPES, f"line {node.lineno} asks for {asked & SPEC_TYPES}"


def test_norm_placement_is_decided_in_one_file():
    """No other file of the model knows a placement by name."""
    for name, tree in TREES.items():
        if name.startswith(("block", "stack", "model", "layers/", "ops/", "cache", "decode")):
            strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            named = strings & set(residual.PLACEMENTS)
            assert not named or name == "layers/residual.py", f"{name} knows {named}"


@pytest.mark.parametrize(
    "name",
    [
        "block.py",
        "stack.py",
        "model.py",
        "layers/attention/gqa.py",
        "layers/attention/mla.py",
        "layers/ffn/dense.py",
        "layers/head.py",
    ],
)
def test_only_project_and_tables_create_matrices(name):
    """`module.param` and `nn.Dense` stand in no layer: weights come from `Project`, with their axes."""
    calls = {ast.unparse(node.func) for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)}
    assert not calls & {"self.param", "nn.Dense", "nn.DenseGeneral", "nn.Einsum", "nn.Embed", "jnp.einsum", "jnp.dot"}


def submodules(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that create a child module inside another module."""
    for cls in ast.walk(tree):
        if isinstance(cls, ast.ClassDef) and any("nn.Module" in ast.unparse(base) for base in cls.bases):
            for node in ast.walk(cls):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Module", "Project")):
                    yield node


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith(("layers/", "block", "stack", "model"))])
def test_every_submodule_has_an_explicit_name(name):
    for call in submodules(TREES[name]):
        top = name == "model.py" and ast.unparse(call.func) == "TransformerModule"
        assert top or any(keyword.arg == "name" for keyword in call.keywords), f"line {call.lineno}"


def public() -> Iterator:
    """Every public function, class and method that is defined in the library."""
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield pytest.param(node, id=f"{name}:{node.name}")


@pytest.mark.parametrize("node", list(public()))
def test_what_is_public_is_documented_in_sentences(node):
    """Initialisers named after their value need no sentence."""
    text = ast.get_docstring(node)
    assert text or node.name in ("zeros", "ones"), "no docstring"
    assert text is None or text.split("\n\n")[0].rstrip().endswith((".", ":", "?", ")")), text


@pytest.mark.parametrize("name", [name for name in TREES if TREES[name].body])
def test_every_file_says_what_it_is(name):
    assert ast.get_docstring(TREES[name])


TABLES = {
    "ACTIVATIONS": fx.ops.ACTIVATIONS,
    "NORMS": fx.ops.NORMS,
    "KERNELS": fx.ops.KERNELS,
    "SCALINGS": {kind.__name__: kind for kind in SCALINGS},
    "PAIRINGS": PAIRINGS,
    "PLACEMENTS": {
        f"{name}-{part}": function
        for name, placement in residual.PLACEMENTS.items()
        for part, function in placement._asdict().items()
    },
    "ATTENTION": {kind.__name__: kind for kind in ATTENTION},
    "ROUTERS": {kind.__name__: kind for kind in ROUTERS},
    "DISPATCHES": {kind.__name__: kind for kind in DISPATCHES},
    "FFN": {kind.__name__: kind for kind in FFN},
    "BIASES": {kind.__name__: kind for kind in bias.BIASES},
    "POSITIONS": {kind.__name__: kind for kind in embed.POSITIONS},
    "HEADS": {kind.__name__: kind for kind in head.HEADS},
}


ENTRIES = {f"{table}-{name}": entry for table, entries in TABLES.items() for name, entry in entries.items()}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_every_entry_of_a_table_says_its_formula(entry):
    """`describe` prints the first line; a dataclass's automatic signature is not one."""
    text = inspect.getdoc(entry)
    assert text and not text.startswith(f"{entry.__name__}(")


def test_the_toy_factory_reaches_every_entry_that_it_can_choose():
    """Its own tables name every feed-forward layer, head and logit bias there is."""
    assert {type(make(8, 8, "relu", FanIn())) for make in FFNS.values()} == set(FFN)
    assert {type(toy(attention=name).stack.blocks[0].attention) for name in ATTENTIONS} == set(ATTENTION)
    slots = [value for choose in POSITIONS.values() for value in choose(8, 2, 4).values()]
    assert {type(slot) for slot in slots} >= set(bias.BIASES) | set(embed.POSITIONS)
    assert {slot.pairing for slot in slots if type(slot) is fx.ops.Rotary} == set(PAIRINGS)


def spec_classes() -> Iterator[type]:
    for name in TREES:
        if name.startswith(
            ("layers/", "block", "stack", "transformer", "model", "ops/mask", "ops/rotary", "ops/route", "ops/dispatch")
        ):
            module = import_module("fxformer." + name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
            for value in vars(module).values():
                ours = inspect.isclass(value) and value.__module__ == module.__name__
                if ours and is_dataclass(value) and not issubclass(value, nn.Module):
                    yield value


def test_specs_are_values():
    """Frozen and slotted: equal where written alike, hashable, and a mistyped field is an error."""
    for kind in spec_classes():
        assert kind.__dataclass_params__.frozen, kind
        assert "__slots__" in vars(kind), kind
    assert toy() == toy() and hash(toy()) == hash(toy()) and toy() != toy(norm="layer")


@pytest.mark.parametrize("kind", [kind for kind in spec_classes() if fields(kind)], ids=lambda kind: kind.__name__)
def test_a_spec_checks_its_fields(kind):
    """What travels through `jit` as a tree holds arrays, and is no spec."""
    if kind not in TREES_OF_ARRAYS:
        with pytest.raises(ValueError, match="does not fit; give"):
            kind(**{field.name: object() for field in fields(kind)})


TREES_OF_ARRAYS = (context.Memory, context.Layer, context.Context, model.Output, model.Reading)


def test_the_public_face_is_the_contract():
    assert set(fx.__all__) >= {"init", "apply", "empty_cache", "generate", "count", "zoo", "hf", "ops"}
    keywords = inspect.signature(fx.apply).parameters
    assert [name for name, p in keywords.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == ["spec", "params", "tokens"]
    assert {"coords", "cache", "key", "kernel"} <= set(keywords)
    for name in ("attend", "rotate", "rms_norm", "layer_norm"):
        assert callable(getattr(fx.ops, name))
