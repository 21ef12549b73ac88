"""Tables of a study for other programs."""

import csv
import io
import json
import os
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from glasshouse.core.errors import MissingPackage, not_found
from glasshouse.core.files import written
from glasshouse.study.store.catalog import Row
from glasshouse.study.store.folder import Store

Format: TypeAlias = Literal["json", "csv", "parquet"]
SMALL = 10_000  # values of an array that is written out in JSON


def export(store: Store, folder: str | os.PathLike[str], format: Format = "json") -> list[Path]:
    """Write the tables of units, labels, images and notes to files that other programs read; gives their paths.

    One column for each fact that any row has. JSON also gets the arrays of up to 10,000 numbers, in `arrays.json`;
    larger ones are best read where they are, with `numpy.load(path, mmap_mode="r")`. Texts are written as they are:
    a spreadsheet may take one that starts with `=` for a formula.
    """
    writers: dict[str, Callable[[list[Row]], bytes]] = {"json": _json, "csv": _csv, "parquet": _parquet}
    if format not in writers:
        raise not_found("format", format, get_args(Format))
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    layers = store.layers()
    tables: dict[str, list[Row]] = {
        "units": [{"layer": layer, **row} for layer in layers for row in store.units(layer)],
        "labels": [{"layer": layer, **row} for layer in layers for row in store.labels(layer)],
        "images": store.images(),
        "notes": store.notes(),
    }
    if format == "json":
        tables["arrays"] = list(_small_arrays(store))
    paths: list[Path] = []
    for name, rows in tables.items():
        content = writers[format](rows)
        with written(root / f"{name}.{format}") as file:
            file.write(content)
        paths.append(root / f"{name}.{format}")
    return paths


def _small_arrays(store: Store) -> list[Row]:
    found: list[Row] = []
    for row in store.files("array"):
        values = store.array(row["layer"], row["name"])
        if values.size <= SMALL:
            about = {"shape": list(values.shape), "dtype": str(values.dtype)}
            found.append({"layer": row["layer"], "name": row["name"], **about, "values": _finite(values.tolist())})
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _json(rows: list[Row]) -> bytes:
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False).encode()


def _csv(rows: list[Row]) -> bytes:
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, _columns(rows))
    table.writeheader()
    table.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue().encode()


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _parquet(rows: list[Row]) -> bytes:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        hint = "Install it with: pip install 'glasshouse[parquet]'"
        raise MissingPackage(f"Parquet needs pyarrow, which cannot be imported: {error}.", hint) from error
    columns = {name: [_cell(row.get(name)) for row in rows] for name in _columns(rows)}
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()
