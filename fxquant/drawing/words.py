"""Text for pictures: the user's names made printable and short, dtypes and shapes abbreviated."""

from __future__ import annotations

from fxquant.graphs.snapshot import TensorInfo

MOST_CHARACTERS = 48  # of one line in a box
UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
DTYPES = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "bfloat16": "bf16",
    "uint8": "u8",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "quint8": "qu8",
    "qint8": "qi8",
    "qint32": "qi32",
}


def clean(text: str, most: int = MOST_CHARACTERS) -> str:
    """One printable line of at most `most` characters, cut at the end: valid in DOT (once quoted) and in XML.

    Printable text comes back as it is, up to the cut; control and format characters and lone surrogates do not.
    """
    return _printable(text if len(text) <= most else text[: most - 1] + "…")


def clean_path(path: str, most: int = MOST_CHARACTERS) -> str:
    """The same, cut at the start: the end of a module path says the most."""
    return _printable(path if len(path) <= most else "…" + path[1 - most :])


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _stand_in(letter) for letter in text)


def _stand_in(letter: str) -> str:
    return " " if letter.isspace() else UNPRINTABLE


def tensor_text(value: TensorInfo, batch: int | None = None) -> str:
    """'u8 B×64×56×56': B stands for the example's batch where the first dimension is as long."""
    sizes = [str(size) for size in value.shape]
    if batch is not None and len(sizes) > 1 and value.shape[0] == batch:
        sizes[0] = "B"
    return clean(f"{DTYPES.get(value.dtype, value.dtype)} {'×'.join(sizes) or 'scalar'}", 40)


def number(text: str) -> str:
    """'0.02117' for '0.021168947219848633'; other text as it is."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return clean(text, 24)


def plural(count: int, noun: str) -> str:
    """'1 node', '1,873 nodes'; nouns in -x take -es."""
    ending = "" if count == 1 else "es" if noun.endswith("x") else "s"
    return f"{count:,} {noun}{ending}"
