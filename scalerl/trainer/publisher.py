"""Publish what the trainer makes: weights, the manifest that generators follow, evaluation requests."""

import shutil
import tempfile
import time
from pathlib import Path

from transformers import AutoTokenizer
from transformers.utils import cached_file

from scalerl.fence import check_attempt
from scalerl.paths import RunPaths
from scalerl.spool.admission import PolicyManifest, publish_manifest
from scalerl.spool.evaluations import EvaluationRequest, pending_evaluations, request_evaluation
from scalerl.spool.weights import collect_old_weights, publish_weights
from scalerl.trainer.engine import TrainingEngine
from scalerl.trainer.state import TrainingState

KEEP_POLICIES = 2
"""Number of published policies that stay: a generator may still be loading the one before the newest."""


class Publisher:
    """The trainer's way to the run folder. Every rank calls every method; rank 0 writes.

    Before each publish the attempt is checked: a trainer that a newer attempt has replaced must not make
    generators follow it.
    """

    def __init__(
        self, paths: RunPaths, engine: TrainingEngine, tokenizer_path: Path | str, attempt: int
    ) -> None:
        """Prepare to publish the policies of `engine` with the tokenizer at `tokenizer_path`."""
        self._paths = paths
        self._engine = engine
        self._attempt = attempt
        self._side_files: dict[str, bytes] = {}
        if engine.rank == 0:
            self._side_files = _side_files(engine, tokenizer_path)
            for leftover in paths.weights.glob(".*.tmp"):  # of a trainer killed while it published
                shutil.rmtree(leftover)
        self._published: tuple[int, str, str] = (-1, "", "")
        """Policy version, folder name and SHA-256 of the newest weights; the last two on rank 0 only."""
        self.admitted_from = 0
        """First group that the newest manifest admits."""
        self._names: list[str] = []
        """Folder names in the last KEEP_POLICIES manifests."""

    def write_model(self, folder: Path | None) -> None:
        """Fill `folder`, given on rank 0 only, with the policy as a Hugging Face model."""
        for name, content in self._side_files.items():
            assert folder is not None
            (folder / name).write_bytes(content)
        self._engine.export(folder)

    def publish_policy(self, state: TrainingState) -> None:
        """Publish the weights of this moment and the manifest that admits the groups of `state`.

        Raises:
            StaleAttempt: a newer attempt owns the run folder.
        """
        self._publish_weights(state.step)
        if self._engine.rank > 0:
            return
        manifest = self._manifest(state)
        # The attempt was checked before the export, too, but that may have taken minutes.
        check_attempt(self._paths, self._attempt)
        publish_manifest(self._paths, manifest)
        self.admitted_from = manifest.next_group
        self._names = [*self._names, manifest.name][-KEEP_POLICIES:]
        # Again: the manifest's fsync may have taken its time, and the weights of a newer attempt must stay.
        check_attempt(self._paths, self._attempt)
        collect_old_weights(self._paths, self._names)

    def _manifest(self, state: TrainingState) -> PolicyManifest:
        _, name, sha256 = self._published
        return PolicyManifest(
            policy_version=state.step,
            name=name,
            sha256=sha256,
            next_group=state.next_group,
            batch_prompts=state.batch_prompts,
            admitted=list(state.admitted.items()),
            attempt=self._attempt,
            published_s=time.time(),
        )

    def request_evaluation(self, state: TrainingState) -> None:
        """Ask for the pass rate of the policy of this moment, unless it is known or asked for already.

        Raises:
            StaleAttempt: a newer attempt owns the run folder.
        """
        self._publish_weights(state.step)
        step, name, sha256 = self._published
        # After a restart the weights may have an open request, with the moment of their first publication.
        if self._engine.rank > 0 or any(request.name == name for request in pending_evaluations(self._paths)):
            return
        request = EvaluationRequest(
            step=step,
            policy_version=step,
            name=name,
            sha256=sha256,
            epoch=state.epoch,
            generated_tokens=state.generated_tokens,
            trained_tokens=state.trained_tokens,
            flops=state.flops,
            published_s=time.time(),
        )
        request_evaluation(self._paths, request)

    def _publish_weights(self, step: int) -> None:
        """Publish the weights of this moment, unless that was done; manifest and evaluation share them."""
        check_attempt(self._paths, self._attempt)
        if self._published[0] == step:
            return
        # The export gathers parameters from all ranks, so all take part in it; rank 0 alone has a folder.
        name, sha256 = "", ""
        if self._engine.rank == 0:
            name, sha256 = publish_weights(self._paths, step, self.write_model)
        else:
            self.write_model(None)
        self._published = (step, name, sha256)


def _side_files(engine: TrainingEngine, tokenizer_path: Path | str) -> dict[str, bytes]:
    """Return name and content of the files besides the weights; they are the same for every policy."""
    with tempfile.TemporaryDirectory() as name:
        # The text part of a composite model comes without its architecture, and vLLM would have to guess.
        if not engine.model.config.architectures:
            engine.model.config.architectures = [type(engine.model).__name__]
        engine.model.config.save_pretrained(name)
        AutoTokenizer.from_pretrained(tokenizer_path).save_pretrained(name)
        # As it is: many published ones are inconsistent (a temperature without do_sample), and Transformers
        # reads such a file but refuses to write it.
        generation = cached_file(
            str(tokenizer_path), "generation_config.json", _raise_exceptions_for_missing_entries=False
        )
        if generation is not None:
            shutil.copyfile(generation, Path(name) / "generation_config.json")
        return {path.name: path.read_bytes() for path in sorted(Path(name).iterdir()) if path.is_file()}
