"""Write an image data set as shuffled WebDataset shards, the same bytes for the same input.

    python tools/make_shards.py digits OUT                              scikit-learn's handwritten digits, no download
    python tools/make_shards.py folder SRC OUT                          a folder per class; images copied as they are
    python tools/make_shards.py torchvision CIFAR10 ROOT OUT --split train
    python tools/make_shards.py reshuffle SHARDS... OUT                 shards that are sorted by class, or too small
    python tools/make_shards.py reshuffle SHARDS... OUT --restart       with restart markers in their JPEGs

OUT gets PREFIX-0000.tar ... and classes.json. For a validation set in the same folder give another --prefix; in another
folder, give the training set's classes.json with --classes, so that both number their classes alike.
"""

import inspect
import io
import json
import os
import re
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np
from PIL import Image

from teacher_cache.endings import OneLineErrors
from teacher_cache.errors import ShardError
from teacher_cache.files import fail, place_files, writing
from teacher_cache.messages.nearest import did_you_mean
from teacher_cache.messages.recognise import meant
from teacher_cache.messages.shown import counted, shown
from teacher_cache.options import COUNT, NUMBER, Folder, endpoint_option
from teacher_cache.processes.lock import alone
from teacher_cache.processes.threads import available_cores
from teacher_cache.replay.seeds import Stream, derive
from teacher_cache.shards.classes import CLASSES_FILE, IMAGE_EXTENSIONS, class_rule, read_class_names
from teacher_cache.shards.find import expand_shards
from teacher_cache.shards.source import ShardFacts, look, open_ranges, read_object_ranges
from teacher_cache.shards.tar import DamageError, members
from teacher_cache.shards.walk import open_reader, split_name
from teacher_cache.storage.place import is_url
from teacher_cache.storage.storage import AT_ONCE
from teacher_cache.store.presence import check_folder_outside
from teacher_cache.terminal import say, say_aside

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script: what it shares is in the package `tools`
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from tools.restart_markers import RestartMarkers

DIGITS_VALIDATION = 360  # of 1,797: a fifth
READ_TOGETHER = 256  # samples: more of a shard need not be in memory

_PREFIX = re.compile(r"\w[\w.-]*")
_META_FOLDER = re.compile(r"__[^/]*__")  # webdataset's readers skip it


@dataclass(frozen=True)
class Sample:
    """One sample to be written; read gives its image, extension and bytes, when its turn comes."""

    key: str
    class_number: int
    read: Callable[[], tuple[str, bytes]]
    file: Path | None = None  # that the image is a copy of

    def members(self) -> dict[str, bytes]:
        """Contents by extension."""
        extension, image = self.read()
        return {extension: image, "cls": str(self.class_number).encode()}


@dataclass(frozen=True)
class MovedSample:
    """One sample of a shard that is there, to be written again: (extension, offset, size) of each of its members."""

    key: str
    path: str
    facts: ShardFacts
    places: tuple[tuple[str, int, int], ...]

    def members(self) -> dict[str, bytes]:
        """Contents by extension. ShardError where the shard has become shorter."""
        ranges = [(offset, size) for _, offset, size in self.places]
        if is_url(self.path):
            contents = read_object_ranges(self.path, self.facts, ranges)
        else:
            with open_ranges(self.path) as read:
                contents = [read(offset, size) for offset, size in ranges]
        found = {extension: content for (extension, *_), content in zip(self.places, contents, strict=True)}
        if any(len(found[extension]) != size for extension, _, size in self.places):
            raise ShardError(f"shard {self.path} became shorter while it was read, at key '{shown(self.key)}'")
        return found


AnySample = TypeVar("AnySample", Sample, MovedSample)


def shuffle(samples: Sequence[AnySample], seed: int, prefix: str) -> list[AnySample]:
    """Shuffle over all shards: a pure function of seed, prefix and the samples' order, alike on every platform."""
    order = Stream(derive(seed, "make_shards", prefix)).permutation(len(samples))
    return [samples[position] for position in order]


def write_shards(
    out: Path,
    prefix: str,
    samples: Sequence[Sample] | Sequence[MovedSample],
    class_names: Sequence[str] | None,
    samples_per_shard: int,
    markers: "RestartMarkers | None" = None,
) -> list[Path]:
    """Write samples in their order as PREFIX-0000.tar, ... and classes.json where classes have names; aside first,
    renamed once all are there. markers: what puts restart markers into their images.

    ShardError when out holds shards of this prefix, or another classes.json; DiskError when it is a store, or in one;
    BusyError while another process writes this prefix there.
    """
    if not samples:
        raise ShardError(f"no images found for the shards {prefix}-*.tar")
    repeated = [key for key, count in Counter(sample.key for sample in samples).items() if count > 1]
    if repeated:
        raise ShardError(f"two samples have the key '{shown(repeated[0])}'")
    check_out(out, prefix, class_names)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    busy, advice = f"another process writes {prefix}-*.tar to {out}", "wait for it, or give another folder or --prefix"
    aside, names = out / f".{prefix}.partial", list[str]()
    with alone(out / f".{prefix}.lock", busy, advice, say_aside), ExitStack() as at_end, writing(out):
        at_end.callback(shutil.rmtree, aside, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)  # of a run that was stopped
        aside.mkdir()
        for number, first in enumerate(range(0, len(samples), samples_per_shard)):
            names.append(shard_name(prefix, number))
            write_shard(aside / names[-1], samples[first : first + samples_per_shard], markers)
        written = list(names)
        if class_names is not None:
            content = json.dumps(list(class_names), ensure_ascii=False) + "\n"
            (aside / CLASSES_FILE).write_text(content, encoding="utf-8")
            written.append(CLASSES_FILE)
        check_out(out, prefix, class_names)  # another prefix may have come meanwhile, with other classes
        place_files(aside, written, out)
    return [out / name for name in names]


def shard_name(prefix: str, number: int) -> str:
    return f"{prefix}-{number:04d}.tar"


def check_out(
    out: Path, prefix: str, class_names: Sequence[str] | None, choices: str = "another folder or --prefix"
) -> None:
    """Refuse to write where shards of this prefix, or other classes, are already, or in a store; None: classes without
    names."""
    check_folder_outside(out)
    if not _PREFIX.fullmatch(prefix):
        raise ShardError(f"the prefix {prefix!r} makes no plain file name: use letters, digits, '_', '.' and '-'")
    there = sorted(out.glob(f"{prefix}-*.tar"))
    if there:
        raise ShardError(f"{out} already holds {there[0].name} ({len(there)} such): remove them, or give {choices}")
    if (out / CLASSES_FILE).exists() and (
        class_names is None or read_class_names(out / CLASSES_FILE) != tuple(class_names)
    ):
        raise ShardError(
            f"{out / CLASSES_FILE} names other classes: give another folder, or these names with --classes "
            f"{out / CLASSES_FILE}"
        )


def write_shard(
    path: Path, samples: Sequence[Sample] | Sequence[MovedSample], markers: "RestartMarkers | None" = None
) -> None:
    import webdataset  # and with it torch, which takes seconds

    fixed = {"user": "", "group": "", "mode": 0o644, "mtime": 0, "encoder": False}
    with open(path, "wb") as stream, webdataset.TarWriter(stream, keep_meta=True, **fixed) as writer:
        for written in _read_all(samples, markers):
            writer.write(written)


def _read_all(
    samples: Sequence[Sample] | Sequence[MovedSample], markers: "RestartMarkers | None"
) -> Iterator[dict[str, str | bytes]]:
    """Keys and members of a shard's samples, in order; many at once of those that lie far away, or have work done.

    What is here is read in this thread: data sets may not be, and Pillow's way to open files is the process's.
    """
    is_far = any(isinstance(sample, MovedSample) and is_url(sample.path) for sample in samples)
    if not is_far and markers is None:
        yield from map(_read, samples)
        return
    with ThreadPoolExecutor(AT_ONCE if is_far else available_cores()) as threads:
        for first in range(0, len(samples), READ_TOGETHER):
            together = samples[first : first + READ_TOGETHER]
            read = threads.map(_read, together) if is_far else map(_read, together)
            yield from read if markers is None else threads.map(partial(_marked, markers), read)


def _read(sample: Sample | MovedSample) -> dict[str, str | bytes]:
    return {"__key__": sample.key, **sample.members()}


def _marked(markers: "RestartMarkers", sample: dict[str, str | bytes]) -> dict[str, str | bytes]:
    """With markers in its images, also in those of which `index --image-from` chooses."""
    marked = dict(sample)
    for extension, content in sample.items():
        if isinstance(content, bytes) and extension.lower().rpartition(".")[2] in IMAGE_EXTENSIONS:
            try:
                marked[extension] = markers.mark(content)
            except ShardError as error:
                raise ShardError(f"sample '{shown(str(sample['__key__']))}': {error}") from None
    return marked


def encode_png(image: Image.Image) -> tuple[str, bytes]:
    """Encode without loss -> ("png", bytes); modes that PNG does not know become RGB."""
    if image.mode not in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    stream = io.BytesIO()
    image.save(stream, "png")
    return "png", stream.getvalue()


def digits_samples() -> tuple[list[Sample], list[Sample]]:
    """scikit-learn's 1,797 digits, 8 x 8 grey, 0..16 stretched to 0..255 -> (training, validation).

    Both hold every class in its proportion; who is in which depends on nothing.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images.astype(np.int64) * 255 + 8) // 16
    classes = digits.target.astype(np.int64)
    # the whole parts of each class's share, and one more where the remainders are largest
    shares = np.bincount(classes) * DIGITS_VALIDATION
    held_out = shares // len(classes)
    held_out[np.argsort(-(shares % len(classes)), kind="stable")[: DIGITS_VALIDATION - held_out.sum()]] += 1
    train: list[Sample] = []
    val: list[Sample] = []
    for position in Stream(derive(0, "make_shards", "digits")).permutation(len(classes)):
        number = int(classes[position])
        image = Image.fromarray(pixels[position].astype(np.uint8))
        sample = Sample(f"digit-{position:04d}", number, partial(encode_png, image))
        if held_out[number]:
            held_out[number] -= 1
            val.append(sample)
        else:
            train.append(sample)
    return train, val


def folder_samples(source: Path, class_names: Sequence[str] | None) -> tuple[list[Sample], tuple[str, ...], int]:
    """The images of a tree with one folder per class, in sorted order -> (samples, class names, files left out).

    Classes are the sorted folder names, or class_names, and then a folder of another name is refused. Hidden files and
    folders are left out; so are files of other extensions, and those are counted. Links are followed, and refused where
    they lead to nothing.
    """
    if not source.is_dir():
        raise ShardError(f"{source} is no folder{meant(source)}: name one that holds a folder for each class")
    astray = sorted(entry for entry in source.iterdir() if not entry.exists() and not entry.name.startswith("."))
    if astray:
        raise ShardError(f"{astray[0]} is a link to nothing: put what it names back, or remove it")
    folders = sorted(entry.name for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ShardError(f"{source} holds no folders: one per class is expected")
    names = tuple(folders if class_names is None else class_names)
    unknown = [folder for folder in folders if folder not in names]
    if unknown:
        raise ShardError(
            f"{source / unknown[0]} is none of {counted(len(names), 'class')} (such folders: {len(unknown)}): "
            "remove it, or name it in --classes"
        )
    twice = [folder for folder in folders if names.count(folder) > 1]
    if twice:
        raise ShardError(
            f"the class name {twice[0]!r} stands for more than one class, so the folder {source / twice[0]} does too"
        )
    meta = [folder for folder in folders if _META_FOLDER.fullmatch(folder)]
    if meta:
        raise ShardError(f"{source / meta[0]}: readers of WebDataset skip names like this; rename the folder")
    nameless = [folder for folder in folders if not _is_text(folder)]
    if nameless:
        raise ShardError(f"{source / nameless[0]} has a name that is not UTF-8; rename it")
    samples: list[Sample] = []
    left_out = sum(entry.is_file() and not entry.name.startswith(".") for entry in source.iterdir())
    taken: set[str] = set()
    for folder in folders:
        number = names.index(folder)
        for file in _files(source / folder):
            if not _is_image(file):
                left_out += 1
                continue
            if not _is_text(str(file.relative_to(source))):
                raise ShardError(f"{file} has a name that is not UTF-8; rename it")
            key = _unused_key(file.relative_to(source), taken)
            taken.add(key)
            samples.append(Sample(key, number, partial(_copy, file), file))
    if not samples:
        raise ShardError(
            f"{source} holds no images: {', '.join(IMAGE_EXTENSIONS)} are expected in its folders of classes, "
            f"which have {counted(left_out, 'other file')}"
        )
    return samples, names, left_out


def _is_image(file: Path) -> bool:
    return file.suffix[1:].lower() in IMAGE_EXTENSIONS


def _is_text(name: str) -> bool:
    """Whether the bytes of a file's name are UTF-8: Python has others as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _copy(file: Path) -> tuple[str, bytes]:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for, without end
            raise ShardError(f"{file} is no plain file: leave it out")
        return file.suffix[1:].lower(), file.read_bytes()
    except OSError as error:
        raise ShardError(f"{file} cannot be read ({error.strerror}): make it readable, or leave it out") from None


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder and what it links to, sorted by path, hidden ones left out. ShardError for a link to a
    folder that it lies in."""
    found = []
    for root, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for link in (Path(root, name) for name in folders if os.path.islink(os.path.join(root, name))):
            if any(link.samefile(around) for around in link.parents if around.is_relative_to(folder)):
                raise ShardError(f"{link} is a link to a folder that it lies in: remove it")
        found += [Path(root, name) for name in files if not name.startswith(".")]
    yield from sorted(found, key=lambda file: file.parts)


def _unused_key(relative: Path, taken: set[str]) -> str:
    """A relative path's key. A dot in the base name becomes '_', as it would end the key; '-2' tells equals apart."""
    key = relative.with_name(relative.stem.replace(".", "_")).as_posix()
    number = 1
    unused = key
    while unused in taken:
        number += 1
        unused = f"{key}-{number}"
    return unused


def shard_samples(paths: Sequence[str]) -> tuple[list[MovedSample], int]:
    """The samples of shards that are there, in their order -> (samples, members left out: those of no sample).

    ShardError for a shard that is not whole, and for keys that come back, in one shard or in two.
    """
    samples: dict[str, MovedSample] = {}
    left_out = 0
    for path in paths:
        facts = look(path)
        for key, places in _grouped(path, facts):
            if not key:
                left_out += len(places)
            elif key in samples and samples[key].path == path:
                raise ShardError(
                    f"shard {path}: sample '{shown(key)}' comes back after other samples, so its members are apart, or "
                    "two have one key: tar them sorted (`tar --sort=name`), each key once"
                )
            elif key in samples:
                raise ShardError(
                    f"two samples have the key '{shown(key)}', in {samples[key].path} and {path}: one shard could not "
                    "hold both; rename one"
                )
            else:
                samples[key] = MovedSample(key, path, facts, tuple(places))
    return list(samples.values()), left_out


def _grouped(path: str, facts: ShardFacts) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """(key, extension, offset and size of each of its members) as they follow each other; key "": of no sample."""
    held: tuple[str, list[tuple[str, int, int]]] | None = None
    with open_reader(path, facts) as (reader, _):
        try:
            for name, offset, size in members(reader):
                key, extension = _split_text(path, name)
                if held is None or held[0] != key:
                    if held is not None:
                        yield held
                    held = key, []
                if key and extension in [known for known, _, _ in held[1]]:
                    raise ShardError(f"shard {path}: sample '{shown(key)}' has two members .{shown(extension)}")
                held[1].append((extension, offset, size))
        except DamageError as damage:
            raise ShardError(f"shard {path} {damage.found}: {damage.advice(path)}") from None
    if held is not None:
        yield held


def _split_text(path: str, name: bytes) -> tuple[str, str]:
    """(key, extension as it is written) of a member, ("", "") for one of no sample."""
    split = split_name(name)
    if split is None:
        return "", ""
    try:
        key, extension = split[0].decode(), name[len(split[0]) + 1 :].decode()
    except UnicodeDecodeError:
        raise ShardError(f"shard {path}: the member '{shown(name)}' has a name that is not UTF-8; rename it") from None
    if extension in ("", "__key__"):
        raise ShardError(f"shard {path}: the member '{shown(name)}' has no extension that WebDataset could write")
    return key, extension


# What is there already


def shards_there(out: Path, prefix: str) -> list[Path]:
    """The shards of this prefix in a folder, in their order."""
    found = [path for path in out.glob(f"{prefix}-*.tar") if re.fullmatch(r"\d{4,}", path.stem[len(prefix) + 1 :])]
    return sorted(found, key=lambda path: int(path.stem[len(prefix) + 1 :]))


def check_same_folder(
    source: Path, prefix: str, paths: Sequence[Path], samples: Sequence[Sample], class_names: Sequence[str], size: int
) -> None:
    """Refuse the shards at paths where they are not those that these samples, in this order, `size` a shard, give.

    Names and sizes of the files are compared, and the bytes of those that were touched since their shard was written.
    ShardError, which counts what differs and names the first.
    """
    there = {sample.key: sample for sample in shard_samples([str(path) for path in paths])[0]}
    wanted = {sample.key: sample for sample in samples}
    found = (
        ("new", [key for key in wanted if key not in there]),
        ("gone", [key for key in there if key not in wanted]),
        ("changed", [key for key in wanted if key in there and _is_changed(wanted[key], there[key])]),
    )
    differing = [f"{len(keys):,} {what} (first {shown(keys[0])})" for what, keys in found if keys]
    classes_file = paths[0].with_name(CLASSES_FILE)
    if not classes_file.exists() or read_class_names(classes_file) != tuple(class_names):
        differing.append("other classes")
    placed = [(Path(sample.path).name, sample.key) for sample in there.values()]
    expected = [(shard_name(prefix, number // size), sample.key) for number, sample in enumerate(samples)]
    if not differing and placed != expected:
        differing.append("another --seed or --samples-per-shard")
    if differing:
        raise ShardError(
            f"{paths[0].with_name(f'{prefix}-*.tar')} were made of other images than {source} holds now: "
            f"{', '.join(differing)}; remove them to have them made anew, and index them into a new store, or choose "
            "another folder for the new ones"
        )


def _is_changed(wanted: Sample, there: MovedSample) -> bool:
    """Whether a file is another than the sample that was made of it."""
    assert wanted.file is not None
    status = wanted.file.stat()
    sizes = {extension: size for extension, _, size in there.places if extension != "cls"}
    if sizes != {wanted.file.suffix[1:].lower(): status.st_size}:
        return True
    touched = status.st_ctime_ns >= os.stat(there.path).st_mtime_ns
    return touched and there.members() != wanted.members()


def torchvision_samples(dataset: Any, class_names: Sequence[str] | None) -> tuple[list[Sample], tuple[str, ...]]:
    """The items (PIL image, class) of a torchvision data set without transforms -> (samples, class names).

    An item that lies in a file of its own is copied, others are encoded as PNG. Class names are the data set's own;
    with class_names its classes are renumbered by name.
    """
    try:
        classes = [int(target) for target in _targets(dataset)]
    except (TypeError, ValueError, NotImplementedError):
        raise ShardError("the data set is not one of classification: its targets are no class numbers") from None
    own = getattr(dataset, "classes", None)
    own_names = (
        tuple(_name(name) for name in own)
        if own is not None
        else tuple(str(number) for number in range(max(classes, default=-1) + 1))
    )
    names = tuple(class_names) if class_names is not None else own_names
    unknown = [name for name in own_names if names.count(name) != 1] if class_names is not None else []
    if unknown:
        raise ShardError(
            f"the class {unknown[0]!r} of the data set is not once among the {len(names)} of --classes "
            f"({len(unknown)} such)"
        )
    numbers = {
        number: names.index(name) if class_names is not None else number for number, name in enumerate(own_names)
    }
    wrong = [number for number in classes if number not in numbers]
    if wrong:
        raise ShardError(f"the data set has class {wrong[0]}, but {counted(len(own_names), 'class name')}")
    samples = [
        Sample(f"{position:08d}", numbers[number], partial(_read_item, dataset, position))
        for position, number in enumerate(classes)
    ]
    return samples, names


def _targets(dataset: Any) -> Sequence[int]:
    """The classes of all items: in memory in most data sets, under one of these names; else taken from the items."""
    for attribute in ("targets", "_labels", "labels"):
        targets = getattr(dataset, attribute, None)
        if targets is not None and len(targets) == len(dataset):
            return targets
    return [dataset[position][1] for position in range(len(dataset))]


def _name(name: Any) -> str:
    """A class name; ImageNet's are tuples of synonyms."""
    return ", ".join(name) if isinstance(name, tuple | list) else str(name)


def _read_item(dataset: Any, position: int) -> tuple[str, bytes]:
    """One item's image: the file that it is decoded from where that is of a known kind, else a PNG of its pixels."""
    try:
        with _caught_file():
            image = dataset[position][0]
    except _FileOpenedError as opened:
        if _is_image(opened.file):
            return _copy(opened.file)
        image = dataset[position][0]
    if not isinstance(image, Image.Image):
        raise ShardError(f"item {position} of the data set is no PIL image but {type(image).__name__}")
    return encode_png(image)


class _FileOpenedError(Exception):
    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.file = file


@contextmanager
def _caught_file() -> Iterator[None]:
    """Raise _FileOpenedError where Pillow would open a file.

    Data sets keep their files' paths under many names of their own, but open them all with Image.open.
    """
    original = Image.open

    def catch(fp: Any, *args: Any, **kwargs: Any) -> Any:
        name = fp if isinstance(fp, str | os.PathLike) else getattr(fp, "name", None)
        if isinstance(name, str | os.PathLike):
            raise _FileOpenedError(Path(name))
        return original(fp, *args, **kwargs)

    Image.open = catch
    try:
        yield
    finally:
        Image.open = original


def open_torchvision(name: str, root: Path, split: str | None) -> Any:
    """Open torchvision.datasets.NAME, downloaded to root if it is not there; split goes to its `split=` or `train=`."""
    from torchvision import datasets

    kind: Any = getattr(datasets, name, None)
    is_class = inspect.isclass(kind)
    if not is_class:
        listing = "names are spelled as in torchvision.datasets, CIFAR10 or Flowers102"
        raise ShardError(f"torchvision has no data set {name!r}: {did_you_mean(name, datasets.__all__, listing)}")
    parameters = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {"root": root} if "root" in parameters else {}
    if split is not None:
        if "split" in parameters:
            arguments["split"] = split
        elif "train" in parameters and split in ("train", "test", "val"):
            arguments["train"] = split == "train"
        else:
            raise ShardError(f"the data set {name} has no split {split!r}")
    elif "split" in parameters or "train" in parameters:
        raise ShardError(f"the data set {name} has splits: give --split, train or test or what torchvision calls it")
    required = [each for each in parameters if _is_required(parameters[each]) and each not in arguments]
    if required:
        raise ShardError(
            f"the data set {name} cannot be opened without {', '.join(required)}, which this command does not give: "
            "name one of classification, or write its pictures to folders of classes"
        )
    try:
        if "download" in parameters:
            try:
                return kind(**arguments, download=False)
            except (RuntimeError, OSError):  # torchvision's way to say that it is not there
                root.mkdir(parents=True, exist_ok=True)
                arguments["download"] = True
        return kind(**arguments)
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        raise ShardError(f"the data set {name} cannot be opened in {root}: {error}") from None


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


@click.group(cls=OneLineErrors, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Write an image data set as shuffled WebDataset shards, the same bytes for the same input."""


_out = click.argument("out", type=Folder(file_okay=False, path_type=Path, readable=False))
_seed = click.option("--seed", default=0, metavar=NUMBER, help="Of the shuffle over all shards.")
_samples_per_shard = click.option(
    "--samples-per-shard",
    type=click.IntRange(1),
    default=1024,
    metavar=COUNT,
    help="How many samples a shard holds, best a multiple of 64.",
)
_prefix = click.option("--prefix", default="train", metavar="NAME", help="Shards are called NAME-0000.tar ...")
_classes = click.option(
    "--classes",
    metavar="FILE",
    type=click.Path(dir_okay=False, readable=False),
    help="JSON list of class names, in their order.  [default: the data's own names and order]",
)

_restart = click.option(
    "--restart",
    is_flag=True,
    help="Put restart markers into JPEGs, without loss (by jpegtran): a crop can then be decoded alone, which makes "
    "trainings on single views of a picture faster (repeats = 1).",
)


def _markers(wanted: bool) -> "RestartMarkers | None":
    if not wanted:
        return None
    from tools.restart_markers import RestartMarkers  # and with it decoders, which take a while

    return RestartMarkers()


def _report(
    paths: Sequence[Path],
    num_samples: int,
    class_names: Sequence[str] | None,
    markers: "RestartMarkers | None" = None,
    *,
    made_before: bool = False,
) -> None:
    places = ", ".join(str(path) for path in (paths if len(paths) < 3 else [paths[0], "...", paths[-1]]))
    of_classes = f" of {counted(len(class_names), 'class')}" if class_names is not None else ""
    say(f"{places}: {counted(num_samples, 'sample')}{of_classes}{', there already' if made_before else ''}")
    if markers is not None:
        left = f"; {markers.left:,} left as they are: no JPEGs of 8 bits, grey or of three colours, that are whole"
        say(f"restart markers: in {counted(markers.marked, 'image')}{left if markers.left else ''}")


@main.command()
@_out
@_seed
@_samples_per_shard
def digits(out: Path, seed: int, samples_per_shard: int) -> None:
    """scikit-learn's handwritten digits, as OUT/train-0000.tar ... and OUT/val-0000.tar ..."""
    class_names = [str(number) for number in range(10)]
    train, val = digits_samples()
    for prefix in ("train", "val"):
        check_out(out, prefix, class_names, "another folder")
    for prefix, samples in (("train", train), ("val", val)):
        paths = write_shards(out, prefix, shuffle(samples, seed, prefix), class_names, samples_per_shard)
        _report(paths, len(samples), class_names)


@main.command()
@click.argument("src", type=Folder(file_okay=False, path_type=Path, readable=False))
@_out
@_seed
@_samples_per_shard
@_prefix
@_classes
@_restart
@click.option(
    "--again",
    is_flag=True,
    help="Leave shards that are there, where they were made of the same files; refuse them where not.",
)
def folder(
    src: Path,
    out: Path,
    seed: int,
    samples_per_shard: int,
    prefix: str,
    classes: str | None,
    restart: bool,
    again: bool,
) -> None:
    """A tree SRC/CLASS/.../IMAGE, its files copied as they are.

    Classes are the sorted folder names, or those of --classes in their order; then other folders are refused.
    """
    if restart and again:
        raise click.UsageError("--again compares images with their files, which --restart changes: give one of the two")
    markers = _markers(restart)
    samples, class_names, left_out = folder_samples(src, read_class_names(classes) if classes else None)
    ordered = shuffle(samples, seed, prefix)
    paths = shards_there(out, prefix) if again else []
    made_before = bool(paths)
    if made_before:
        check_same_folder(src, prefix, paths, ordered, class_names, samples_per_shard)
    else:
        paths = write_shards(out, prefix, ordered, class_names, samples_per_shard, markers)
    _report(paths, len(samples), class_names, markers, made_before=made_before)
    if left_out:
        say(f"left out: {counted(left_out, 'file')}; taken are {', '.join(IMAGE_EXTENSIONS)} in folders of classes")


@main.command(name="torchvision")
@click.argument("name")
@click.argument("root", type=Folder(file_okay=False, path_type=Path, readable=False))
@_out
@click.option(
    "--split",
    metavar="NAME",
    help="train, test, val ... as torchvision calls it; train or test where it says train=.  [default: none]",
)
@_seed
@_samples_per_shard
@_prefix
@_classes
@_restart
def torchvision_command(
    name: str,
    root: Path,
    out: Path,
    split: str | None,
    seed: int,
    samples_per_shard: int,
    prefix: str,
    classes: str | None,
    restart: bool,
) -> None:
    """The data set torchvision.datasets.NAME in ROOT, downloaded if need be.

    Image files are copied as they are, images in memory become PNG.
    """
    markers = _markers(restart)
    dataset = open_torchvision(name, root, split)
    samples, class_names = torchvision_samples(dataset, read_class_names(classes) if classes else None)
    paths = write_shards(out, prefix, shuffle(samples, seed, prefix), class_names, samples_per_shard, markers)
    _report(paths, len(samples), class_names, markers)


@main.command()
@click.argument("shards", nargs=-1, required=True)
@_out
@endpoint_option
@_seed
@_samples_per_shard
@_prefix
@_classes
@_restart
def reshuffle(
    shards: tuple[str, ...],
    out: Path,
    seed: int,
    samples_per_shard: int,
    prefix: str,
    classes: str | None,
    restart: bool,
) -> None:
    """The samples of SHARDS (paths, globs, brace patterns), shuffled over all of them: their keys and members' bytes,
    but for JPEGs that get restart markers.

    Class names are those of --classes, or of the classes.json beside the shards, if there is one.
    """
    markers = _markers(restart)
    paths = expand_shards(shards)
    class_names = class_rule(paths, classes_file=classes).names
    check_out(out, prefix, class_names)
    samples, left_out = shard_samples(paths)
    written = write_shards(out, prefix, shuffle(samples, seed, prefix), class_names, samples_per_shard, markers)
    _report(written, len(samples), class_names, markers)
    if left_out:
        say(f"left out: {counted(left_out, 'member')} of no sample")


if __name__ == "__main__":
    main()
