"""What the tracking libraries have written, read from their files."""

import json
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32_768  # a .wandb file is a log in LevelDB's format: blocks of records, each with 7 bytes before it
HEADER = 7


@dataclass
class Curve:
    """A run's curve in one file. rows: (step, values), as they were logged."""

    id: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    begun: int = 0  # ns

    def steps(self, name: str) -> list[int]:
        """At which steps a value was logged."""
        return [step for step, values in self.rows if name in values]

    def values(self, name: str) -> dict[int, float]:
        return {step: values[name] for step, values in self.rows if name in values}


def wandb_curves(out: Path) -> list[Curve]:
    """Those of a run's lives that were logged offline, in the order of their beginnings."""
    found = [(path.parent.name.split("-")[2], _wandb_curve(path)) for path in out.glob("wandb/offline-run-*/*.wandb")]
    # a folder's name has the second alone; one that was killed before it wrote anything does not say its time itself
    return [curve for _, curve in sorted(found, key=lambda each: (each[0], each[1].begun))]


def _wandb_curve(path: Path) -> Curve:
    from wandb.proto.wandb_internal_pb2 import Record

    curve = Curve()
    for content in _log_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "run":
            curve.id, curve.project = record.run.run_id, record.run.project
            curve.begun = record.run.start_time.ToNanoseconds()
            curve.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.WhichOneof("record_type") == "history":
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            logged = {name: value for name, value in values.items() if not name.startswith("_")}
            curve.rows.append((values["_step"], logged))
    return curve


def _log_records(content: bytes) -> Iterator[bytes]:
    """The whole records of a log, which a killed writer may have left off in one."""
    at, parts = HEADER, b""  # the file's own header is as long as a record's
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4) and at <= len(content):  # a whole record, or the last part of one
            yield parts
            parts = b""


def trackio_curve(database: Path) -> Curve:
    """The only run of a project's database."""
    with sqlite3.connect(database) as connection:
        ((name, config),) = connection.execute("SELECT run_name, config FROM configs").fetchall()
        rows = connection.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    connection.close()
    return Curve(name, database.stem, json.loads(config), [(step, json.loads(values)) for step, values in rows])
