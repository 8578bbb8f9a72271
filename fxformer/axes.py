"""The alphabet: one letter for each axis of every array, in variable suffixes, einsums and sharding rules."""

AXES = {
    "b": "batch",
    "t": "token",  # new tokens: the queries
    "s": "seen",  # tokens that can be looked at: the keys
    "d": "width",
    "h": "head",
    "o": "other_head",  # what heads are mixed into: talking heads
    "g": "kv_head",
    "q": "query_per_kv",
    "k": "key",
    "u": "value",
    "f": "ffn",
    "e": "expert",
    "c": "capacity",
    "m": "choice",
    "n": "flat_token",
    "v": "vocab",
    "r": "kv_latent",
    "a": "query_latent",
    "p": "rotary",
    "i": "indexer_head",
    "j": "indexer_key",
    "w": "factor",
    "y": "label",
    "l": "layer",
}


def logical(letters: str) -> tuple[str, ...]:
    """The logical axis names of an array whose axes are `letters`: "btd" -> ("batch", "token", "width")."""
    return tuple(AXES[letter] for letter in letters)


STACKED = ("layer", "expert")  # leading axes that only count parameters
HEADS = ("head", "kv_head", "indexer_head", "other_head")  # one side of a matrix together with what is after them


def sides(names: tuple[str | None, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Which axes of a parameter count it, which are inputs and which outputs: (layer | width | head, key).

    names: its logical axes. A matrix or a table has outputs; a gain, a bias or a number has none, nor a map between
    heads, which is a gain for each two of them. An input is one axis, or a head with its channels.
    """
    start = next((axis for axis, name in enumerate(names) if name not in STACKED), len(names))
    end = start + (2 if names[start : start + 1] and names[start] in HEADS else 1)
    axes = tuple(range(len(names)))
    return axes[:start], axes[start:end], axes[end:]
