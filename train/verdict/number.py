"""How many there are, in words, of one too."""


def number_of(count: int, noun: str) -> str:
    """Like "1 seed" and "3 seeds"; noun: of one, with its plural in -s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
