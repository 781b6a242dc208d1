"""One archive of a finished run that others can check and run again: a zip with RO-Crate metadata.

It holds configuration, records, partition, topology, log, report and adapters as the run folder has them, the installed
versions, and `ro-crate-metadata.json`, which names every file with its size and SHA-256. Files are hashed and copied in
blocks, so that memory does not grow with the run. Data and model are named by
their hashes in `run.json` and are not copied: their licences are not ours to give.

Source: RO-Crate 1.1, https://w3id.org/ro/crate/1.1 (metadata as JSON-LD in the root of the archive).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from dfl_ray.errors import InputError, resume_line
from dfl_ray.records.folder import check_records, table_folders
from dfl_ray.records.folder_checks import check_run_folder
from dfl_ray.records.part_files import parse_name

METADATA = "ro-crate-metadata.json"
VERSIONS = "requirements.txt"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
LEFT_OUT = ("checkpoints", "wandb", "tensorboard", ".lock", "heartbeat.json", "checksums.json")
"""What of a run's own files is not its result: saved states, trackers' files, locks and their checksums."""
PACKED = ("config.yaml", "run.json", "partition.parquet", "log.txt", "report.html", "topology/graph.graphml")
"""Single files that are packed, beside the parts of tables and the adapters."""
OF_ADAPTERS = (".json", ".safetensors", ".md")
"""Endings of the files of a PEFT folder."""

BLOCK = 1 << 20
"""Bytes of a file that are in memory at a time."""

MEANINGS = {
    "config.yaml": "configuration with every key",
    "run.json": "state, versions, host, and hashes of rows, weights and code",
    "partition.parquet": "who holds which rows",
    "report.html": "report",
    "log.txt": "log, UTC",
    VERSIONS: "installed versions",
}
FORMATS = {
    ".json": "application/json", ".yaml": "application/yaml", ".parquet": "application/vnd.apache.parquet",
    ".html": "text/html", ".txt": "text/plain", ".md": "text/markdown", ".graphml": "application/xml",
}  # fmt: skip


def write_bundle(folder: Path, out: Path) -> int:
    """Write the archive of a finished run.

    The same folder and versions give the same bytes.

    Args:
        folder: The run folder.
        out: The archive, a name that ends in .zip.

    Returns:
        Number of files in it.

    Raises:
        InputError: The run is not done, a file of it is damaged or missing, or `out` exists.
    """
    info = check_run_folder(folder)
    if info.get("state") != "done":
        raise InputError(
            f"{folder} is not a finished run",
            got=f"state {info.get('state')}",
            change=f"`{resume_line(folder)}` goes on with one that was interrupted.",
        )
    if out.exists():
        raise InputError(f"{out} exists", expected="a new file", change="Give another name with -o.")
    check_records(folder, contents=True)
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    files[VERSIONS] = "".join(f"{line}\n" for line in _installed()).encode()
    crate = _crate(info, files)
    files[METADATA] = (json.dumps(crate, indent=1, sort_keys=True) + "\n").encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            # A fixed date, so that equal contents are equal archives.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            with _opened(files[name]) as (content, entry.file_size), archive.open(entry, "w") as place:
                shutil.copyfileobj(content, place, BLOCK)
    return len(files)


def open_bundle(path: Path, folder: Path) -> Path:
    """Unpack an archive and check every file against the hash that its metadata names.

    Args:
        path: The archive.
        folder: An empty folder.

    Returns:
        `folder`, a run folder.

    Raises:
        InputError: It is no such archive, or a file is damaged, missing or foreign.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names, wrong = _compared(archive, folder)
    except FileNotFoundError:
        raise InputError(
            f"There is no file {path}", expected="an archive that `dfl-ray bundle` wrote"
        ) from None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no archive of a run",
            got=f"{type(error).__name__}: {error}",
            expected=f"what `dfl-ray bundle` wrote: a zip with {METADATA}",
        ) from None
    if wrong:
        raise InputError(
            f"{path} is damaged",
            got=f"not as its metadata says: {', '.join(wrong[:5])}",
            expected="whole files",
        )
    with zipfile.ZipFile(path) as archive:
        for name in names:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as content, place.open("wb") as file:
                shutil.copyfileobj(content, file, BLOCK)
    return folder


def _compared(archive: zipfile.ZipFile, folder: Path) -> tuple[list[str], list[str]]:
    """Names of the files of an archive that is to be unpacked into a folder, and of those that are wrong."""
    graph = json.loads(archive.read(METADATA))["@graph"]
    listed = {entry["@id"]: entry["sha256"] for entry in graph if entry["@type"] == "File"}
    names = sorted(set(archive.namelist()) - {METADATA})
    wrong = sorted(set(names) ^ set(listed))
    wrong += [name for name in names if name in listed and _digest(archive.open(name)) != listed[name]]
    # Names come from the file: one that leads out of the folder is refused before anything is written.
    wrong += [name for name in listed if not (folder / name).resolve().is_relative_to(folder.resolve())]
    return names, wrong


def foreign(folder: Path) -> list[str]:
    """Name what lies in a run folder and is not the run's: it is not packed, since nobody knows what it is.

    Args:
        folder: The run folder.

    Returns:
        Paths below it; of a folder none of whose files is the run's the folder alone, with a `/` behind it.
    """
    own = {path.relative_to(folder).parts for path in _files(folder)}
    heads = {parts[:depth] for parts in own for depth in range(1, len(parts) + 1)}
    found: set[str] = set()
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_dir() or parts[0] in LEFT_OUT or parts in heads:
            continue
        depth = next(depth for depth in range(1, len(parts) + 1) if parts[:depth] not in heads)
        place = "/".join(parts[:depth])
        found.add(f"{place}/" if (folder / place).is_dir() else place)
    return sorted(found)


def _files(folder: Path) -> Iterator[Path]:
    """The run's own files, as it wrote them."""
    tables = {table.relative_to(folder).parts for table in table_folders(folder)}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        packed = "/".join(parts) in PACKED or (parts[:-1] in tables and parse_name(path) is not None)
        if parts[0] == "adapters" and len(parts) == 3:
            packed = path.suffix in OF_ADAPTERS
        if packed and path.is_file():
            yield path


def _installed() -> list[str]:
    found = {f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions() if d.metadata["Name"]}
    return sorted(found, key=str.lower)


@contextmanager
def _opened(content: Path | bytes) -> Iterator[tuple[IO[bytes], int]]:
    """A file or what is to be one, to be read, and its size in bytes."""
    if isinstance(content, bytes):
        yield BytesIO(content), len(content)
        return
    with content.open("rb") as file:
        yield file, content.stat().st_size


def _digest(content: IO[bytes]) -> str:
    """SHA-256 of what is left of an open file, which is closed."""
    digest = hashlib.sha256()
    with content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _crate(info: dict[str, Any], files: Mapping[str, Path | bytes]) -> dict[str, Any]:
    """The metadata: the descriptor, the data set, what made it, and every file."""
    parts = [{"@id": name} for name in sorted(files)]
    versions, git = info.get("versions", {}), info.get("git") or {}
    software = {
        "@id": "#dfl-ray", "@type": "SoftwareApplication", "name": "dfl-ray",
        "softwareVersion": str(versions.get("dfl-ray")), "softwareRequirements": {"@id": VERSIONS},
        "identifier": f"commit {git.get('commit', 'unknown')}{' with local changes' if git.get('dirty') else ''}",
    }  # fmt: skip
    action = {
        "@id": "#run", "@type": "CreateAction", "name": f"run {info.get('name')}", "instrument": {"@id": "#dfl-ray"},
        "startTime": info.get("started_at"), "endTime": info.get("ended_at"),
        "object": [{"@id": "config.yaml"}], "result": [part for part in parts if part["@id"] != "config.yaml"],
    }  # fmt: skip
    root = {
        "@id": "./", "@type": "Dataset", "name": f"dfl-ray run {info.get('name')}",
        "description": "Records of a simulated run of decentralised LoRA fine-tuning over a radio channel; "
        "`dfl-ray replay` runs it again and compares.",
        "datePublished": info.get("ended_at"), "hasPart": parts, "mentions": [{"@id": "#run"}],
        "license": "The run's maker names a licence; base model and rows are not part of this archive.",
    }  # fmt: skip
    descriptor = {
        "@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }  # fmt: skip
    return {"@context": CONTEXT, "@graph": [descriptor, root, software, action, *map(_file, files.items())]}


def _file(item: tuple[str, Path | bytes]) -> dict[str, Any]:
    name, source = item
    with _opened(source) as (content, size):
        digest = _digest(content)
    entry = {
        "@id": name, "@type": "File", "name": name.rsplit("/", 1)[-1], "contentSize": str(size), "sha256": digest,
        "encodingFormat": FORMATS.get(Path(name).suffix, "application/octet-stream"),
    }  # fmt: skip
    return entry | ({"description": MEANINGS[name]} if name in MEANINGS else {})
