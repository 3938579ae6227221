"""Files to tables: CSV, TSV, Parquet, Arrow and NumPy archives, read without running anything they hold."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from minimand.study import embedded
from minimand.study.names import nearest, unknown
from minimand.study.task import Kind

MISSING_MARKS = ["?"]  # what older data sets write for a missing value, beside those pandas knows

# Memory that reading and preparing takes, as a multiple of the bytes on disk (text, Arrow) or of the bytes unpacked
# (Parquet, .npz): the table itself, its float64 and float32 copies; text columns take more than their characters.
_EXPANSION = {".csv": 4.0, ".tsv": 4.0, ".arrow": 4.0, ".feather": 4.0, ".parquet": 3.0, ".npz": 2.5}


@dataclass(frozen=True)
class Table:
    """Inputs and target as they were read, nothing decided yet.

    ``inputs`` is a frame, or an array (N, C, H, W) of pictures. ``picture`` is (C, H, W) where the inputs are
    pixels, in either form. ``kind`` is set where the set says it; ``label_noise`` is that of an embedded set.
    """

    name: str
    inputs: pd.DataFrame | np.ndarray
    target: pd.Series
    source: str
    picture: tuple[int, int, int] | None = None
    kind: Kind | None = None
    label_noise: float = 0.0


def read_table(source: str | Path | pd.DataFrame, target: str | None = None, max_bytes: int | None = None) -> Table:
    """Read a file, a frame or an embedded set, and set its target column apart.

    ``target`` names the column to predict; in an ``.npz`` the array to predict, "y" unless it is given. An embedded
    set knows its own. ``max_bytes`` is the memory that reading may take, half of what is free by default; a file
    that would take more is refused before it is loaded.

    Raises FileNotFoundError, or ValueError for a file that is no table, is too large, or lacks the target.
    """
    if isinstance(source, pd.DataFrame):
        return _with_target("DataFrame", source, target, f"a DataFrame of {len(source):,} rows")
    if str(source) in embedded.names():
        return _embedded(str(source), target)
    path = Path(source)
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(_missing_file(path))
    if path.is_dir():
        raise ValueError(f"DATA must be a file or the name of an embedded set; {path} is a directory")
    if suffix not in _READERS:
        raise ValueError(f"DATA must end in {', '.join(_READERS)}; got {path.name!r}")
    try:
        if path.stat().st_size == 0:
            raise ValueError(f"DATA {path} is empty")
        _check_size(path, suffix, max_bytes)
        return _READERS[suffix](path, target)
    except PermissionError as error:
        raise ValueError(f"DATA {path} cannot be read: permission denied") from error


def free_memory() -> int:
    """Bytes of memory that this process may still take: what is free, and what its control group leaves it."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return min(free, max(int(limit) - used, 0)) if limit != "max" else free
    except (OSError, ValueError):  # no control groups here, or none that says so
        return free


def _missing_file(path: Path) -> str:
    """The message for a path that isn't there, with the nearest file or embedded set."""
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, [name for name in beside if Path(name).suffix.lower() in _READERS])
    close = [str(path.parent / name) for name in close] or nearest(str(path), embedded.names())
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"DATA: no file {str(path)!r} and no embedded set of that name{hint}; sets: {', '.join(embedded.names())}"


def _check_size(path: Path, suffix: str, max_bytes: int | None) -> None:
    limit = max_bytes if max_bytes is not None else free_memory() // 2
    size = path.stat().st_size
    needed = int(_EXPANSION[suffix] * _unpacked_bytes(path, suffix))
    if needed > limit:
        raise ValueError(
            f"DATA {path} is {_size(size)} and would take about {_size(needed)} of memory; "
            f"at most {_size(limit)} may be used here. Take a sample of its rows"
        )


def _unpacked_bytes(path: Path, suffix: str) -> int:
    """Bytes of the table once unpacked, from the file's own directory where it has one: nothing is loaded."""
    try:
        if suffix == ".parquet":
            from pyarrow import parquet

            found = parquet.read_metadata(path)
            return sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
        if suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile) as error:  # pyarrow's errors are ValueErrors or OSErrors
        raise _not_a_table(path, error) from error
    return path.stat().st_size


def _size(count: int) -> str:
    """Bytes in words: 1.5 GB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _not_a_table(path: Path, error: Exception) -> ValueError:
    said = " ".join(str(error).split())
    return ValueError(f"DATA {path} is not a {path.suffix[1:].lower()} table: {said or type(error).__name__}")


def _read_text(path: Path, target: str | None) -> Table:
    """CSV and TSV in UTF-8 with one row of column names; ``;`` and tabs are recognised in a ``.csv``."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            header = lines.readline()
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
        with warnings.catch_warnings():
            # A row longer than the header would otherwise shift or lose columns with a warning only.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                encoding="utf-8-sig",
                na_values=MISSING_MARKS,
                skipinitialspace=True,
                index_col=False,
                low_memory=False,
            )
    except UnicodeDecodeError as error:
        raise ValueError(f"DATA {path} must be text in UTF-8; {error.reason} at byte {error.start}") from error
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' parser errors are ValueErrors
        raise _not_a_table(path, error) from error
    return _with_target(path.stem, frame, target, str(path))


def _read_parquet(path: Path, target: str | None) -> Table:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, NotImplementedError) as error:
        raise _not_a_table(path, error) from error
    return _with_target(path.stem, frame, target, str(path))


def _read_arrow(path: Path, target: str | None) -> Table:
    """Feather and Arrow IPC, as a file or as a stream."""
    import pyarrow as pa
    from pyarrow import ipc

    try:
        try:
            with pa.OSFile(str(path)) as file:
                table = ipc.open_file(file).read_all()
        except pa.ArrowInvalid:
            with pa.OSFile(str(path)) as file:
                table = ipc.open_stream(file).read_all()
        frame = table.to_pandas()
    except (OSError, ValueError, NotImplementedError) as error:
        raise _not_a_table(path, error) from error
    return _with_target(path.stem, frame, target, str(path))


def _read_npz(path: Path, target: str | None) -> Table:
    """Arrays ``X`` (N, features), (N, H, W) or (N, C, H, W) and ``y`` (N,), or other names with ``target`` given."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"DATA {path} holds pickled objects, which are never loaded; save plain arrays") from error
        raise _not_a_table(path, error) from error
    wanted = target or "y"
    if wanted not in found:
        raise ValueError(f"DATA {path}: " + unknown("target", wanted, found))
    others = [name for name in found if name != wanted]
    inputs_name = "X" if "X" in others else others[0] if len(others) == 1 else None
    if inputs_name is None:
        raise ValueError(
            f"DATA {path} must hold one array of inputs, or one called 'X'; got {', '.join(others) or 'none'}"
        )
    x, y = found[inputs_name], found[wanted]
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"DATA {path}: {wanted} must have shape (N,); got {y.shape}")
    if x.ndim not in (1, 2, 3, 4) or len(x) != len(y):
        raise ValueError(
            f"DATA {path}: {inputs_name} must have shape ({len(y)}, features), ({len(y)}, H, W) or "
            f"({len(y)}, C, H, W) to match {wanted}; got {x.shape}"
        )
    series = pd.Series(y, name=wanted)
    if x.ndim <= 2:
        columns = x.reshape(len(x), -1)
        frame = pd.DataFrame(columns, columns=[f"{inputs_name}[{i}]" for i in range(columns.shape[1])])
        return Table(path.stem, frame, series, str(path))
    if not (np.issubdtype(x.dtype, np.number) or x.dtype == bool) or np.iscomplexobj(x):
        raise ValueError(f"DATA {path}: pictures {inputs_name} must be real numbers; got dtype {x.dtype}")
    pictures = _channels_first(x)
    return Table(path.stem, pictures, series, str(path), picture=pictures.shape[1:])


_READERS: dict[str, Callable[[Path, str | None], Table]] = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
    ".npz": _read_npz,
}


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Pictures as (N, C, H, W). A last dimension of 1, 3 or 4 is taken for the channels unless the second is."""
    if x.ndim == 3:
        return x[:, None]
    if x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        return np.moveaxis(x, -1, 1)
    return x


def _embedded(name: str, target: str | None) -> Table:
    found = embedded.load(name)
    if target is not None and target != found.target.name:
        frame = found.inputs.assign(**{str(found.target.name): found.target})
        return _with_target(name, frame, target, found.source)
    return Table(name, found.inputs, found.target, found.source, found.picture, found.kind, found.label_noise)


def _with_target(name: str, frame: pd.DataFrame, target: str | None, source: str) -> Table:
    frame = frame.rename(columns=str)
    columns = list(frame.columns)
    if target is None:
        raise ValueError(f"target must name the column to predict; {name} has {', '.join(columns[:12]) or 'none'}")
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"columns must have distinct names; {name} has {repeated[0]!r} twice")
    if target not in columns:
        raise ValueError(unknown("target", target, columns))
    if len(columns) == 1:
        raise ValueError(
            f"{name} must have columns beside the target {target!r}; it has none (is the separator , ; or tab?)"
        )
    return Table(name, frame.drop(columns=target).reset_index(drop=True), frame[target].reset_index(drop=True), source)
