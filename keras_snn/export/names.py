"""Names in files: legal wherever they stand, and no two alike."""

import keyword
import re

__all__ = ["identifier", "unique"]

# Keywords of C and C++ that are none of Python's.
KEYWORDS = re.compile(
    "alignas|alignof|asm|auto|bool|case|catch|char|const|constexpr|decltype|default|delete|do|"
    "double|enum|explicit|export|extern|false|float|friend|goto|inline|int|long|mutable|"
    "namespace|new|noexcept|nullptr|operator|private|protected|public|register|short|signed|"
    "sizeof|static|struct|switch|template|this|throw|true|typedef|typeid|typename|union|unsigned|"
    "using|virtual|void|volatile"
)
# What is put behind names: of the new value of a state, and in the header of a C array.
SUFFIXES = ("", "_out", "_scale", "_zero_point")


def identifier(name: str) -> str:
    """A name as an identifier of C, Python and TensorFlow: `[A-Za-z][A-Za-z0-9_]*`.

    Example:

    >>> identifier("block:1/lif-2"), identifier("0"), identifier("int")
    ('block_1_lif_2', 'n0', 'nint')
    """
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    legal = name[:1].isalpha() and not keyword.iskeyword(name) and not KEYWORDS.fullmatch(name)
    return name if legal else f"n{name}"


def unique(names: list[str]) -> list[str]:
    """Names as identifiers, of which no two are alike, in upper case or with a suffix either.

    A state `NAME` is `NAME_out` after a step, and a C header has `NAME_SCALE` and `NAME_ZERO_POINT`
    for each tensor, so that these are taken too. The first of equal names keeps it, the others get
    numbers.

    Args:
        names: Any texts; those in front come first.

    Returns:
        A list of as many.

    Example:

    >>> unique(["x-1", "x_1", "lif/membrane", "lif", "lif_out", "LIF"])
    ['x_1', 'x_1_2', 'lif_membrane', 'lif', 'lif_out_2', 'LIF_2']
    """
    taken, found = set(), []
    for name in map(identifier, names):
        choice, count = name, 1
        while taken & _forms(choice):
            count += 1
            choice = f"{name}_{count}"
        taken |= _forms(choice)
        found.append(choice)
    return found


def _forms(name):
    return {f"{name}{suffix}".lower() for suffix in SUFFIXES}
