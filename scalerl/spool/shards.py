"""The spool: a durable queue of rollout shards, one Parquet file a prompt group, named by the group's index.
 Groups lie in buckets of BUCKET_GROUPS, spool/<bucket>/<group>.parquet, so that looking for new shards lists
the few buckets of the current window and never the whole history.
"""

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from scalerl.files import fsync_file, fsync_folder, temporary_name, write_text
from scalerl.spool.schema import Rollout, check_group, read_group, write_group

BUCKET_GROUPS = 256
_SHARD_NAME = re.compile(r"(\d{9})\.parquet")


class Spool:
    """The shards below the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, group: int) -> Path:
        return self.root / f"{group // BUCKET_GROUPS:07d}" / f"{group:09d}.parquet"

    def publish(self, rollouts: Sequence[Rollout]) -> bool:
        """Make one finished group visible, whole and durable. The first writer of a group wins.

        Returns:
            False if the group was there already (nothing is changed then).

        Raises:
            ShardError: the rollouts are not one whole group.
        """
        group = rollouts[0].group if rollouts else -1
        check_group(rollouts, group)
        path = self.path(group)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        try:
            write_group(temporary, rollouts)
            fsync_file(temporary)
            os.link(
                temporary, path
            )  # unlike a rename, a link never replaces a shard that ranks may be reading
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)
        return True

    def present(self, start: int, stop: int) -> set[int]:
        """The groups in [start, stop) that have a shard. Foreign files met on the way are quarantined."""
        groups: set[int] = set()
        if stop <= start:
            return groups
        for bucket in range(start // BUCKET_GROUPS, (stop - 1) // BUCKET_GROUPS + 1):
            groups.update(self._list_bucket(bucket))
        return {group for group in groups if start <= group < stop}

    def _list_bucket(self, bucket: int) -> list[int]:
        folder = self.root / f"{bucket:07d}"
        if not folder.exists():
            return []
        groups = []
        for name in sorted(os.listdir(folder)):
            match = _SHARD_NAME.fullmatch(name)
            if match and int(match[1]) // BUCKET_GROUPS == bucket:
                groups.append(int(match[1]))
            elif not name.startswith("."):
                self.quarantine(folder / name, f"{name} is not the name of a shard of bucket {bucket}")
        return groups

    def read(self, group: int, *, as_arrays: bool = False) -> list[Rollout]:
        """The completions of one group; `as_arrays`: with NumPy arrays in the per-token columns.

        Raises:
            ShardError: the shard is torn or foreign; `quarantine` it and have the group generated again.
            FileNotFoundError: the group has no shard.
        """
        return read_group(self.path(group), group, as_arrays=as_arrays)

    def quarantine(self, path: Path, reason: str) -> Path:
        """Move a file that is no valid shard aside, with the reason in `<name>.reason.txt` beside it."""
        folder = self.root / "quarantine"
        folder.mkdir(exist_ok=True)
        target = folder / path.name
        number = 1
        while target.exists():
            number += 1
            target = folder / f"{path.name}.{number}"
        with suppress(FileNotFoundError):  # another process has just moved it
            os.rename(path, target)
            write_text(target.with_name(target.name + ".reason.txt"), reason + "\n")
        return target

    def collect_garbage(self, before_group: int) -> int:
        """Delete the buckets that lie wholly before `before_group`; returns how many.

        `before_group` must be the cursor of the oldest checkpoint that is kept: a resume from it reads all
        later groups again.
        """
        old = [
            folder
            for folder in self.root.iterdir()
            if folder.name.isdigit() and (int(folder.name) + 1) * BUCKET_GROUPS <= before_group
        ]
        for folder in old:
            shutil.rmtree(folder)
        return len(old)
