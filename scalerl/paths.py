"""Every file name of a run folder and of a sweep folder, in one place; the README draws this tree."""

from dataclasses import dataclass
from pathlib import Path

RUN_CONFIG = "run_config.json"
"""What the copy of a run's config beside a policy is called: config.json is the model's own."""


@dataclass(frozen=True)
class RunPaths:
    """The layout of the run folder `root`."""

    root: Path

    @property
    def config(self) -> Path:
        """Name the resolved config, with its signature and the code's git commit."""
        return self.root / "config.json"

    @property
    def attempt(self) -> Path:
        """Name the fencing token: the number of the attempt that owns the folder, and its supervisor."""
        return self.root / "attempt.json"

    @property
    def attempt_lock(self) -> Path:
        """Name the lock that a supervisor holds while it claims the folder."""
        return self.root / "attempt.lock"

    @property
    def status(self) -> Path:
        """Name what the run is doing, or why it ended; the supervisor writes it."""
        return self.root / "status.json"

    @property
    def stop(self) -> Path:
        """Name the request that is there while the supervisor wants the trainer to checkpoint and end."""
        return self.root / "stop.json"

    @property
    def end(self) -> Path:
        """Name the trainer's last word; without it, the trainer died, whatever its exit code."""
        return self.root / "end.json"

    @property
    def compute(self) -> Path:
        """Name the ledger of device time: one interval for every process started."""
        return self.root / "compute.json"

    @property
    def metrics(self) -> Path:
        """Name the rows of all steps and evaluations."""
        return self.root / "metrics.jsonl"

    @property
    def training_log(self) -> Path:
        """Name the table of steps for spreadsheets."""
        return self.root / "training_log.csv"

    @property
    def inbox(self) -> Path:
        """Name the folder of metric rows on their way from the roles to the supervisor."""
        return self.root / "inbox"

    @property
    def logs(self) -> Path:
        """Name the folder of logs/<attempt>/<role>.log, with the link `latest`."""
        return self.root / "logs"

    def log(self, attempt: int, role: str) -> Path:
        """Name the log of a role."""
        return self.logs / f"{attempt:04d}" / f"{role}.log"

    @property
    def latest_logs(self) -> Path:
        """Name the link to the logs of the newest attempt."""
        return self.logs / "latest"

    @property
    def spool(self) -> Path:
        """Name the folder of rollout shards: <bucket>/<group>.parquet, refused files in quarantine/."""
        return self.root / "spool"

    @property
    def weights(self) -> Path:
        """Name the folder of <policy_version>-<hash>/, Hugging Face folders that never change."""
        return self.root / "weights"

    @property
    def latest_policy(self) -> Path:
        """Name the PolicyManifest that generators follow."""
        return self.weights / "latest.json"

    def pinned(self, owner: str) -> Path:
        """Name the folder of links to weights that `owner` is reading."""
        return self.weights / f".{owner}"

    def pinned_by_generators(self) -> list[Path]:
        """List the folders of weights that some generator pins, or has left."""
        return sorted(self.weights.glob(".generator-*"))

    @property
    def evaluations(self) -> Path:
        """Name the folder of everything about evaluations."""
        return self.root / "evaluations"

    def evaluation(self, key: str) -> Path:
        """Name the result of an evaluation; evaluator 0 writes it. key: `EvaluationRequest.key`."""
        return self.evaluations / f"{key}.json"

    def evaluation_request(self, key: str) -> Path:
        """Name the request for an evaluation; it is there until it is answered."""
        return self.evaluations / f"{key}.request.json"

    def evaluation_requests(self) -> list[Path]:
        """List the open requests, oldest step first."""
        return sorted(self.evaluations.glob("[0-9]*.request.json"))

    def evaluation_part(self, key: str, index: int, num: int) -> Path:
        """Name what evaluator `index` of `num` has found, until evaluator 0 has put all parts together."""
        return self.evaluations / f"{key}.part-{index}-of-{num}.json"

    def evaluation_parts(self) -> dict[Path, str]:
        """Return the key of every part that is there, of whichever number of evaluators."""
        parts = self.evaluations.glob("[0-9]*.part-*.json")
        return {path: path.name.partition(".")[0] for path in parts}

    @property
    def plateaus(self) -> Path:
        """Name what the trainer concluded from the held-out evaluations, step by step."""
        return self.evaluations / "plateaus.json"

    @property
    def preflight(self) -> Path:
        """Name the folder of what was found before the run began."""
        return self.root / "preflight"

    def exam(self, path: str) -> Path:
        """Name the log-probabilities of one path, such as trainer_packed."""
        return self.preflight / f"{path}.parquet"

    def exam_figures(self, exam: str) -> Path:
        """Name what the process of one exam has measured."""
        return self.preflight / f"{exam}.json"

    @property
    def preflight_report(self) -> Path:
        """Name the verdict of preflight, its reasons and figures."""
        return self.preflight / "report.json"

    @property
    def certificate(self) -> Path:
        """Name what says that preflight was passed, and need not be done again."""
        return self.preflight / "certificate.json"

    @property
    def examined_policy(self) -> Path:
        """Name the base model as the trainer publishes it, for the generator's exam; gone afterwards."""
        return self.preflight / "policy"

    @property
    def best(self) -> Path:
        """Name the folder of the weights with the best held-out pass rate so far."""
        return self.root / "best"

    @property
    def best_evaluation(self) -> Path:
        """Name the held-out evaluation that the weights in `best` were chosen by."""
        return self.best / "evaluation.json"

    @property
    def best_run_config(self) -> Path:
        """Name the copy of `config` that the weights in `best` take along wherever they are copied to."""
        return self.best / RUN_CONFIG

    @property
    def best_test(self) -> Path:
        """Name what the weights in `best` reach on the test set; it is there once they were tested."""
        return self.best / "test.json"

    @property
    def checkpoints(self) -> Path:
        """Name the folder of checkpoints/<step>/, each complete as soon as its name exists."""
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Name the folder of TensorBoard's events."""
        return self.root / "tensorboard"

    @property
    def fit(self) -> Path:
        """Name the fitted curve as `scalerl fit` writes it."""
        return self.root / "fit.json"

    @property
    def curve(self) -> Path:
        """Name the picture of that fit."""
        return self.root / "curve.png"

    def prediction(self, number: int) -> Path:
        """Name the number-th prediction, from 1; a written one never changes."""
        return self.root / ("prediction.json" if number == 1 else f"prediction-{number}.json")

    def create(self) -> None:
        """Make the run folder and the folders that roles write to."""
        for folder in (self.inbox, self.logs, self.spool, self.weights, self.evaluations, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class SweepPaths:
    """The layout of a sweep folder beside the run folders in it."""

    root: Path

    def run(self, name: str) -> RunPaths:
        """Return the layout of one run."""
        return RunPaths(self.root / name)

    @property
    def submissions(self) -> Path:
        """Name the folder of what was submitted to Slurm."""
        return self.root / "submissions"

    @property
    def lock(self) -> Path:
        """Name the lock that a launcher holds while it submits."""
        return self.submissions / "lock.json"

    def submission(self, submission_id: str) -> Path:
        """Name the record of one submission."""
        return self.submissions / f"{submission_id}.json"

    def submission_records(self) -> list[Path]:
        """List the records, oldest first."""
        return sorted(self.submissions.glob("[0-9]*.json"))

    def submission_folder(self, submission_id: str) -> Path:
        """Name the folder of its batch script and logs."""
        return self.submissions / submission_id

    def job_log(self, submission_id: str, job_id: str) -> Path:
        """Name the log of one job of it; job_id: as squeue writes it."""
        return self.submission_folder(submission_id) / f"{job_id}.log"
