"""The alphabet: one letter for each axis of every array, in variable suffixes, einsums and sharding rules."""

AXES = {
    "b": "batch",
    "t": "token",  # new tokens: the queries
    "s": "seen",  # tokens that can be looked at: the keys
    "d": "width",
    "h": "head",
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
