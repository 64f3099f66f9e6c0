"""The spool: a durable queue of rollout shards, one Parquet file a prompt group, named by the group's index.

spool/<bucket>/<group>.parquet   a shard; group // BUCKET_GROUPS is its bucket
      quarantine/                files that were refused, each with its reason in <name>.reason.txt

Buckets keep listings short: looking for new shards lists the few buckets of the current window, never the
whole history. Every operation may be repeated or done by two processes at once.
"""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from scalerl.common.files import write_new, write_text
from scalerl.spool.schema import Group, Rollout, check_group, read_group, write_group

BUCKET_GROUPS = 256
_SHARD_NAME = re.compile(r"(\d{9})\.parquet")


class Spool:
    """The shards below the folder `root`."""

    def __init__(self, root: Path) -> None:
        """Look at the spool in `root`, the folder spool/ of a run; the folder must exist."""
        self.root = root

    def path(self, group: int) -> Path:
        """Return where the shard of a group is, or will be."""
        return self.root / f"{group // BUCKET_GROUPS:07d}" / f"{group:09d}.parquet"

    def publish(self, rollouts: Group) -> bool:
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
        # unlike a rename, a link never replaces a shard that ranks may be reading
        return write_new(path, lambda temporary: write_group(temporary, rollouts))

    def present(self, start: int, stop: int) -> set[int]:
        """Return the groups in [start, stop) that have a shard; quarantine foreign files met on the way."""
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
            # A name with a dot in front is a shard that its generator is still writing.
            elif not name.startswith("."):
                self.quarantine(folder / name, f"{name} is not the name of a shard of bucket {bucket}")
        return groups

    def read(self, group: int, *, as_arrays: bool = False) -> list[Rollout]:
        """Return the completions of one group, checked.

        as_arrays: make the per-token columns NumPy arrays instead of lists.

        Raises:
            ShardError: the shard is torn or foreign; `quarantine` it and have the group generated again.
            FileNotFoundError: the group has no shard.
        """
        return read_group(self.path(group), group, as_arrays=as_arrays)

    def quarantine(self, path: Path, reason: str) -> Path:
        """Move a file that is no valid shard to quarantine/, with the reason; return where it is."""
        folder = self.root / "quarantine"
        folder.mkdir(exist_ok=True)
        target = folder / path.name
        number = 1
        while target.exists():
            number += 1
            target = folder / f"{path.name}.{number}"
        # Trainer and generators list the same buckets: another process may have moved the file a moment ago.
        with suppress(FileNotFoundError):
            os.rename(path, target)
            write_text(target.with_name(target.name + ".reason.txt"), reason + "\n")
        return target

    def collect_garbage(self, before_group: int) -> int:
        """Delete the buckets that lie wholly before `before_group`; return how many.

        `before_group` must be at most the cursor of the oldest checkpoint that is kept: a resume from it
        trains all later groups again, from these very shards.
        """
        old = [
            folder
            for folder in self.root.iterdir()
            if folder.name.isdigit() and (int(folder.name) + 1) * BUCKET_GROUPS <= before_group
        ]
        for folder in old:
            shutil.rmtree(folder)
        return len(old)
