"""Arrow and Parquet files with images in them, read through once: what `datasets` saves.

A column holds the images' bytes, alone or as {bytes, path}; another their captions, or numbers of
classes whose names the file's metadata gives. Arrow files lie on the disk as they lie in memory, so
that an image can be read from its place in the file; what Parquet compresses is unpacked, once.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unclip.checks import printable, shown
from unclip.data.captions import EMPTY, UNREADABLE, clean
from unclip.data.columns import Builder
from unclip.data.shard_index import Index, state, why
from unclip.data.tables import CAPTION_KEYS, needed
from unclip.data.transforms import image_size
from unclip.files import open_regular, read_bytes, whole

ABSENT = "rows without an image"
_IMAGE_KEYS = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
_MOST_IMAGE = 2**29  # bytes
_ROWS = 256  # of Parquet that are read at once


def build(shard: Path, images: Path | None) -> Index:
    """Read a file's captions, and the headers of its images.

    Args:
        images: where images are unpacked to; None for nowhere.

    Raises:
        ValueError: it is no such file, or has no column of images or captions.
    """
    pyarrow = needed("pyarrow", printable(str(shard)))
    where = printable(str(shard))
    size, changed = state(shard)
    if not size:
        raise ValueError(f"the shard {where} is empty")
    try:
        with ExitStack() as stack:
            table = _Table.opened(shard, where, stack)
            packed = None
            if not table.in_place:
                if images is None:
                    raise ValueError(
                        f"the images of {where} must be unpacked, and there is no place for it: "
                        "neither beside it nor in the user's cache (XDG_CACHE_HOME)"
                    )
                packed = stack.enter_context(stack.enter_context(whole(images)).open("wb"))
            found = _Found(table, shard, packed)
            found.read()
    except OSError as error:
        raise ValueError(f"the shard {where} {why(error)}") from None
    except pyarrow.ArrowException as error:
        said = printable(str(error).split("\n")[0][:200])
        raise ValueError(f"{where} is no whole {shard.suffix[1:]} file: {said}") from None
    return Index(
        found.builder.columns(),
        found.rows,
        size,
        changed,
        found.problems,
        unpacked=None if packed is None else images,
        classes=table.classes is not None,
    )


@dataclass
class _Table:
    """An open file, and the columns in it that count.

    Args:
        batches: its rows, some at a time.
        image, text: names of columns.
        classes: names of the classes that the text column numbers; None where it holds captions.
        base: address in memory of the file's first byte, where it is mapped.
        size: bytes of the mapped file; 0 where images are not in it as they are.
    """

    batches: Iterator[Any]
    image: str
    text: str
    classes: Sequence[str] | None
    base: int = 0
    size: int = 0

    @property
    def in_place(self) -> bool:
        return self.size > 0

    @classmethod
    def opened(cls, file: Path, where: str, stack: ExitStack) -> "_Table":
        import pyarrow as pa

        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            parquet = stack.enter_context(pq.ParquetFile(file))
            columns = _columns(parquet.schema_arrow, where)
            return cls(parquet.iter_batches(_ROWS, columns=list(columns[:2])), *columns)
        mapped = stack.enter_context(pa.memory_map(str(file)))
        buffer = mapped.read_buffer(mapped.size())
        batches = _record_batches(buffer)
        columns = _columns(batches[0].schema if batches else pa.schema([]), where)
        table = cls(iter(batches), *columns, buffer.address, buffer.size)
        if not all(table.mapped(batch) for batch in batches):
            table.size = 0
        return table

    def mapped(self, batch: Any) -> bool:
        """Whether all images of these rows are in the file as they are."""
        raw = self.bytes_of(batch)
        data = raw.buffers()[2]
        if raw.null_count or data is None:
            return len(raw) == 0
        return bool(self.base <= data.address <= self.base + self.size - data.size)

    def bytes_of(self, batch: Any) -> Any:
        """The column of the images' bytes."""
        column = batch.column(self.image)
        return (
            column.field("bytes")
            if hasattr(column.type, "fields") or _is_struct(column)
            else column
        )

    def offsets(self, raw: Any) -> Sequence[int]:
        """Where the bytes of each image start in the file, if they are there as they are."""
        import pyarrow.types as types

        if not self.in_place or not len(raw):
            return [0] * len(raw)
        _, ends, data = raw.buffers()
        kind = np.int64 if types.is_large_binary(raw.type) else np.int32
        starts = np.frombuffer(ends, kind)[raw.offset : raw.offset + len(raw)]
        where: list[int] = (starts.astype(np.int64) + (data.address - self.base)).tolist()
        return where

    def paths_of(self, batch: Any) -> list[str | None]:
        column = batch.column(self.image)
        if not _is_struct(column) or column.type.get_field_index("path") < 0:
            return [None] * len(column)
        paths: list[str | None] = _field(column, "path").to_pylist()
        return paths

    def captions(self, value: Any) -> list[str]:
        """What a cell of the text column says."""
        if self.classes is not None:
            inside = value is not None and 0 <= value < len(self.classes)
            return [self.classes[value]] if inside else []
        values = value if isinstance(value, list) else [value]
        return [text for text in values if text is not None]


def _field(column: Any, name: str) -> Any:
    """A struct's field, null where the struct is."""
    import pyarrow.compute as compute

    return compute.struct_field(column, name)


def _is_struct(column: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(column.type))


def _record_batches(buffer: Any) -> list[Any]:
    """Those of an Arrow file of either form."""
    import pyarrow as pa

    try:
        return list(pa.ipc.open_stream(pa.BufferReader(buffer)))
    except pa.ArrowInvalid:
        reader = pa.ipc.open_file(pa.BufferReader(buffer))
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _columns(schema: Any, where: str) -> tuple[str, str, Sequence[str] | None]:
    """The column of images, that of texts, and the classes that it numbers.

    Raises:
        ValueError: one of them is not there.
    """
    import pyarrow.types as types

    def is_image(kind: Any) -> bool:
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def is_text(kind: Any) -> bool:
        if types.is_list(kind) or types.is_large_list(kind):
            kind = kind.value_type
        return bool(types.is_string(kind) or types.is_large_string(kind))

    kinds = {field.name: field.type for field in schema}
    lower = {name.strip().lower(): name for name in kinds}
    known = ", ".join(map(shown, kinds)) or "none"
    images = [lower[key] for key in _IMAGE_KEYS if key in lower and is_image(kinds[lower[key]])]
    images += [name for name, kind in kinds.items() if is_image(kind)]
    if not images:
        raise ValueError(f"{where} has no column with the bytes of images; its columns: {known}")
    texts = [lower[key] for key in CAPTION_KEYS if key in lower]
    if texts:
        if not is_text(kinds[texts[0]]):
            raise ValueError(
                f"{where}: {texts[0]} holds {kinds[texts[0]]}, neither texts nor lists"
            )
        return images[0], texts[0], None
    for name, classes in _class_labels(schema).items():
        if name in kinds and types.is_integer(kinds[name]):
            return images[0], name, classes
    wanted = ", ".join(CAPTION_KEYS)
    raise ValueError(f"{where} has no column of captions ({wanted}); its columns: {known}")


def _class_labels(schema: Any) -> dict[str, list[str]]:
    """Columns that `datasets` says are numbers of classes → the classes' names."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = said["info"]["features"]
        return {
            name: [str(one) for one in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


@dataclass
class _Found:
    """What an open file holds."""

    table: _Table
    shard: Path
    packed: BinaryIO | None
    builder: Builder = field(default_factory=Builder)
    problems: dict[str, list[str]] = field(default_factory=dict)
    rows: int = 0
    written: int = 0

    def read(self) -> None:
        for batch in self.table.batches:
            raw, paths = self.table.bytes_of(batch), self.table.paths_of(batch)
            texts = batch.column(self.table.text).to_pylist()
            starts = self.table.offsets(raw)
            for row, (path, text) in enumerate(zip(paths, texts, strict=True)):
                self._add(raw[row].as_buffer(), starts[row], path, text)

    def _add(self, buffer: Any, start: int, path: str | None, text: Any) -> None:
        """One row, whose bytes start there in the file; `buffer` is None where only the path is
        given."""
        name = _name(path) or f"{self.shard.stem}/{self.rows:08d}"
        self.rows += 1
        told = f"{printable(self.shard.name)}/{name}"
        captions = list(dict.fromkeys(filter(None, map(clean, self.table.captions(text)))))
        if not captions:
            self._problem(EMPTY, told)
            return
        try:
            image = _file(path) if buffer is None else memoryview(buffer)
            if image is None or len(image) == 0:
                self._problem(ABSENT, told)
                return
            if len(image) > _MOST_IMAGE:
                raise ValueError(f"{told} has more than {_MOST_IMAGE:,} bytes")
            size = image_size(bytes(image), name=told)
        except ValueError as error:
            self._problem(UNREADABLE, str(error))
            return
        if self.packed is not None:
            start = self.written
            self.written += self.packed.write(image)
        self.builder.add(name, captions, size, (start, len(image)))

    def _problem(self, kind: str, name: str) -> None:
        self.problems.setdefault(kind, []).append(name)


def _name(path: str | None) -> str:
    """A path within a data set is a name; of one elsewhere on the disk its last part is."""
    if not path:
        return ""
    parts = path.replace("\\", "/").split("/")
    return parts[-1] if path.startswith(("/", "\\")) or ":" in parts[0] else "/".join(parts)


def _file(path: str | None) -> bytes | None:
    """The bytes of a file that a row only names."""
    if not path or not path.startswith("/"):
        return None
    try:
        open_regular(path).close()
    except OSError:
        return None
    return read_bytes(Path(path), _MOST_IMAGE)
