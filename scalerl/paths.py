"""Every file name of a run folder, in one place; the README draws this tree."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """The layout of the run folder `root`."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved config with its signature and the code's git commit."""
        return self.root / "config.json"

    @property
    def attempt(self) -> Path:
        """The fencing token: the number of the attempt that owns the folder, and its supervisor."""
        return self.root / "attempt.json"

    @property
    def status(self) -> Path:
        """What the run is doing, or why it ended; written by the supervisor."""
        return self.root / "status.json"

    @property
    def stop(self) -> Path:
        """Present while the supervisor wants the trainer to checkpoint and end."""
        return self.root / "stop.json"

    @property
    def end(self) -> Path:
        """How the trainer of an attempt ended; without it, it died, whatever its exit code."""
        return self.root / "end.json"

    @property
    def compute(self) -> Path:
        """The ledger of device time: one interval for every process started."""
        return self.root / "compute.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def inbox(self) -> Path:
        """Metric rows on their way from the roles to the supervisor."""
        return self.root / "inbox"

    @property
    def logs(self) -> Path:
        """logs/<attempt>/<role>.log, with the link `latest`."""
        return self.root / "logs"

    @property
    def spool(self) -> Path:
        """Rollout shards: spool/<bucket>/<group>.parquet; refused files in spool/quarantine."""
        return self.root / "spool"

    @property
    def weights(self) -> Path:
        """weights/<policy_version>-<hash>/, Hugging Face directories that never change."""
        return self.root / "weights"

    @property
    def latest_policy(self) -> Path:
        """The PolicyManifest that generators follow."""
        return self.weights / "latest.json"

    @property
    def evaluations(self) -> Path:
        """<step>.request.json from the trainer, evaluation_part(...) from every evaluator, <step>.json from
        evaluator 0."""
        return self.root / "evaluations"

    def evaluation_part(self, step: int, index: int, num: int) -> Path:
        """What evaluator `index` of `num` has found out, until evaluator 0 has put all parts together."""
        return self.evaluations / f"{step:08d}.part-{index}-of-{num}.json"

    @property
    def best(self) -> Path:
        """The weights with the best held-out pass rate so far, and best/evaluation.json."""
        return self.root / "best"

    @property
    def checkpoints(self) -> Path:
        """checkpoints/<step>/, complete as soon as the name exists."""
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def fit(self) -> Path:
        return self.root / "fit.json"

    @property
    def curve(self) -> Path:
        return self.root / "curve.png"

    def log(self, attempt: int, role: str) -> Path:
        return self.logs / f"{attempt:04d}" / f"{role}.log"

    def create(self) -> None:
        """Make the run folder and the folders that roles write to."""
        for folder in (self.inbox, self.logs, self.spool, self.weights, self.evaluations, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
