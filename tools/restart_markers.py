"""Restart markers put into JPEGs, without loss, so that a crop of one can be decoded alone (see jpeg_parts.py).

The work is jpegtran's, of libjpeg-turbo: coefficients are coded anew, none is changed, notes and profiles are kept;
what follows the picture's end is not. What it wrote is compared with what it was given.
"""

import io
import shutil
import subprocess
import threading

import numpy as np
from PIL import Image

from teacher_cache.errors import ImageError, ShardError
from teacher_cache.replay.decode import decode, restarts_of
from teacher_cache.replay.header import JpegFrame, jpeg_frame
from teacher_cache.replay.jpeg_parts import mcu_px

JPEGTRAN = "jpegtran"
LEAST_PX = 24  # between two markers: closer ones make files larger, others let less be left out


class RestartMarkers:
    """Marks JPEGs, from any thread, and counts them. Raises ShardError where jpegtran is not installed, or does not
    work."""

    def __init__(self) -> None:
        found = shutil.which(JPEGTRAN)
        if found is None or not _works():
            what = "which is not found" if found is None else f"and {found} puts none into a picture"
            raise ShardError(
                f"restart markers are put in by {JPEGTRAN}, {what}: install libjpeg-turbo-progs (Debian, Ubuntu), "
                "libjpeg-turbo (conda, Homebrew) or what else brings it"
            )
        self.marked = 0
        self.left = 0  # images that are no JPEGs of a kind that is decoded in parts, or are damaged
        self._lock = threading.Lock()

    def mark(self, image: bytes) -> bytes:
        """The image with markers, or as it is where it can have none; either decodes to the same pixels."""
        marked = with_restarts(image)
        with self._lock:
            self.marked += marked is not None
            self.left += marked is None
        return image if marked is None else marked


def with_restarts(image: bytes) -> bytes | None:
    """A JPEG with restart markers at the same places of every row of MCUs; None of what is no whole JPEG of a kind that
    is decoded in parts. ShardError where jpegtran is killed."""
    frame = _frame(image)
    interval = None if frame is None else restart_interval(image, frame)
    if interval is None:
        return None
    command = (JPEGTRAN, "-copy", "all", "-optimize", "-restart", f"{interval}B")
    try:
        pixels = decode(image)
        done = subprocess.run(command, input=image, capture_output=True, check=False)
        marked = done.stdout
        if done.returncode < 0:  # not for want of a picture
            raise ShardError(f"{JPEGTRAN} was ended by signal {-done.returncode}: run the same again")
        if done.returncode or done.stderr or restarts_of(marked) is None:  # a warning: of what is damaged
            return None
        return marked if np.array_equal(pixels, decode(marked)) else None
    except ImageError:
        return None


def restart_interval(image: bytes, frame: JpegFrame) -> int | None:
    """MCUs between two markers: the fewest that are LEAST_PX wide and divide a row of MCUs; None of a kind that is not
    decoded in parts."""
    mcu = mcu_px(image, frame)
    if mcu is None:
        return None
    columns = -(-frame.width // mcu[1])
    return next((num for num in range(-(-LEAST_PX // mcu[1]), columns) if columns % num == 0), columns)


def _works() -> bool:
    """Whether there is a jpegtran that marks a picture; that of mozjpeg, for one, makes all progressive."""
    with io.BytesIO() as stream:
        Image.linear_gradient("L").convert("RGB").save(stream, "JPEG")
        try:
            return with_restarts(stream.getvalue()) is not None
        except (OSError, ShardError):  # it cannot be executed, or crashes
            return False


def _frame(image: bytes) -> JpegFrame | None:
    try:
        return jpeg_frame(image) if image[:2] == b"\xff\xd8" else None
    except ImageError:
        return None
