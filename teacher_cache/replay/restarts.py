"""Entropy-coded data of a JPEG between its restart markers: where it begins, and some of it as data of its own.

The specification of native/restarts.c. Markers: ITU-T T.81, B.1.1.
"""

import numpy as np

EOI, RST = 0xD9, 0xD0


def find_starts(data: np.ndarray, num: int) -> np.ndarray | None:
    """Where the data of each of num intervals begins, and where one more would: (num + 1,) int64. data (bytes,) uint8:
    from the first interval on. None where restart markers are not as many, not in their order, or followed by another
    marker than that of the picture's end."""
    places = np.flatnonzero(data[:-1] == 0xFF) + 1
    markers = data[places]
    those = (markers != 0x00) & (markers != 0xFF)  # neither a stuffed byte nor the fill byte before a marker
    places, markers = places[those], markers[those]
    numbers = RST + np.arange(num) % 8
    numbers[-1] = EOI
    if len(places) < num or (markers[:num] != numbers).any():
        return None
    starts = np.zeros(num + 1, np.int64)
    starts[1:] = places[:num] + 1
    return starts


def join_intervals(data: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
    """Write the data of some intervals of some rows into out, one after the other, with markers numbered anew, and the
    picture's end. starts (rows, intervals + 1) int64: as found, the last: where a row's data ends. out (bytes,) uint8:
    as long as all of it."""
    begins, ends = starts[:, 0], starts[:, -1]
    pieces = [data[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    np.concatenate(pieces, out=out)
    lengths = ends - begins
    moved = np.cumsum(lengths) - lengths - begins
    numbers = (starts[:, 1:] + moved[:, None]).reshape(-1) - 1  # a marker's last byte
    out[numbers] = RST + np.arange(len(numbers)) % 8
    out[-1] = EOI
