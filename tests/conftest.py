"""Fixtures that several test folders share: tiny policies, real engines, and a run folder whose trainer is
the test."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from factories import make_manifest, make_request
from hypothesis import settings
from left_out import leave_out

from scalerl.common.files import write_json
from scalerl.config import RunConfig
from scalerl.data.problem import Problem, make_problem, write_problems
from scalerl.fence import claim_attempt
from scalerl.inference.engine import EngineOptions, SamplingEngine
from scalerl.paths import RunPaths
from scalerl.sandbox.sandbox import Limits, Sandbox
from scalerl.settings import build_config, load_config
from scalerl.spool.admission import PolicyManifest, publish_manifest
from scalerl.spool.evaluations import EvaluationRequest, request_evaluation
from scalerl.spool.shards import Spool
from scalerl.spool.weights import publish_weights

NUM_PROBLEMS = 7

# CI tries the same examples every time; a developer's machine looks for new ones. Either may be too busy for
# a time limit.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("developer", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

MARKS_OF_FOLDERS = {"e2e": "engine", "slurm": "slurm"}
MARKS_OF_FIXTURES = {
    "open_engine": "engine",
    "inputs": "engine",
    "bubblewrap": "sandbox",
    "browser": "browser",
}
"""What makes a test slow, where its folder or a fixture says so; elsewhere a test says it itself."""
SLOWER = ("browser", "sandbox", "engine", "slurm")
"""The marks of tests that are not fast (setup.cfg says what each means), the slowest last."""
FOLDERS_OF_ENGINES = ("trainer", "inference", "evaluator", "generator", "e2e")
"""The order among tests that start engines."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and put fast tests first, so that `-x` ends early."""
    for item in items:
        for mark in _marks(item):
            item.add_marker(mark)
    items.sort(key=_slowness)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def _marks(item: pytest.Item) -> set[str]:
    fixtures = getattr(item, "fixturenames", ())
    marks = {mark for fixture, mark in MARKS_OF_FIXTURES.items() if fixture in fixtures}
    return marks | {mark for folder, mark in MARKS_OF_FOLDERS.items() if folder == _folder(item)}


def _slowness(item: pytest.Item) -> tuple[int, int]:
    mark = max(
        (SLOWER.index(mark.name) + 1 for mark in item.iter_markers() if mark.name in SLOWER), default=0
    )
    folder = _folder(item)
    return mark, FOLDERS_OF_ENGINES.index(folder) if folder in FOLDERS_OF_ENGINES else 0


@pytest.fixture
def paths(tmp_path) -> RunPaths:
    """Return the paths of a run folder that is not there yet."""
    return RunPaths(tmp_path / "run")


@pytest.fixture
def run_folder(paths) -> None:
    """Make the run folder of `paths`, empty."""
    paths.create()


@pytest.fixture
def make_config(tmp_path) -> Callable[..., RunConfig]:
    """make_config(*"key=value"): return a config whose inputs pass for real ones, with no preflight."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write_problems(tmp_path / "train.parquet", [make_problem("1+1?", ["2"], source="test")])
    write_problems(tmp_path / "heldout.parquet", [make_problem("2+1?", ["3"], source="test")])

    def make(*overrides: str) -> RunConfig:
        fixed = [
            f"model.path={tmp_path}/model",
            f"data.train={tmp_path}/train.parquet",
            f"data.heldout={tmp_path}/heldout.parquet",
            "generator.kv_cache_gb=0.1",
        ]
        fixed += ["trainer.num_ranks=2", "generator.num=1", "evaluation.num=1", "budget.max_steps=3"]
        fixed += ["logging.tensorboard=false", "launch.preflight=off"]
        return load_config([], [*fixed, *overrides])

    return make


@pytest.fixture(scope="session")
def bubblewrap() -> None:
    """Make sure that the real sandbox, in which a test runs programs, works here."""
    try:
        Sandbox(Limits())
    except ValueError as error:
        leave_out(f"apt-get install bubblewrap: {error}", "of programs in their sandbox")


@pytest.fixture(scope="session")
def browser() -> str:
    """Return the path of chromium."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None) or leave_out(
        "there is no chromium (apt-get install chromium)", "of the report in a browser"
    )


@pytest.fixture(scope="session")
def write_policy() -> Callable[..., None]:
    """write_policy(folder, seed=0, tie_embeddings=True, moe=False): make a tiny Qwen3 of sharp random weights
    with the arithmetic tokenizer."""

    def write(folder: Path, *, seed: int = 0, tie_embeddings: bool = True, moe: bool = False) -> None:
        import torch

        from scalerl.base_model import build_model, build_tokenizer

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(hidden_size=64, num_layers=2, tie_embeddings=tie_embeddings, moe=moe)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "norm" not in name:
                        parameter.mul_(5.0)  # far from uniform, so that a wrong policy or cache shows
        model.save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)

    return write


class Engines:
    """Opens real SamplingEngines in this process, one at a time: vLLM has one set of process groups.

    The first takes about ten seconds and every later one two, but for one that equals the last in options and
    shape of the model: the last is used again then, with the policy of the new one.
    """

    def __init__(self) -> None:
        self._idle: tuple[tuple[EngineOptions, str], SamplingEngine] | None = None

    @contextmanager
    def __call__(self, folder: Path, policy_version: int = 0, **options) -> Iterator[SamplingEngine]:
        import torch

        usual = {"dtype": "float32", "fp32_head": True, "max_tokens": 256, "max_num_seqs": 64}
        usual |= {"kv_cache_gb": 0.1, "temperature": 1.0, "seed": 1}
        chosen = EngineOptions(**(usual | options))
        kind = (chosen, (folder / "config.json").read_text())
        if self._idle is not None and self._idle[0] == kind:
            engine = self._idle[1]
            engine.reload(folder, policy_version)
        else:
            self.close()
            engine = SamplingEngine(folder, policy_version, chosen)
        self._idle = None
        torch.manual_seed(chosen.seed)  # vLLM draws from torch's generator on a CPU: begin anew
        try:
            yield engine
        finally:
            if engine.num_running:
                engine.shutdown()
            else:
                self._idle = (kind, engine)

    def close(self) -> None:
        """Shut down the engine that nobody uses, so that another may be started by other means."""
        if self._idle is not None:
            self._idle[1].shutdown()
            self._idle = None


@pytest.fixture(scope="session")
def open_engine() -> Iterator[Engines]:
    """open_engine(folder, policy_version=0, **options): open a real SamplingEngine, as a context manager."""
    engines = Engines()
    yield engines
    engines.close()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """Make a folder with tied/ and untied/, which are base models, and data/."""
    from scalerl.base_model import train_base_model
    from scalerl.data.prepare import prepare_generated

    folder = tmp_path_factory.mktemp("inputs")
    prepare_generated(
        folder / "data", "arithmetic:max_steps=4", count=400, seed=0, heldout_fraction=0.1, test_fraction=0.1
    )
    for name, tied in (("tied", True), ("untied", False)):
        train_base_model(folder / name, seed=0, steps=60, tie_embeddings=tied)
    return folder


class FakeTrainer:
    """Publishes what it is told to; group g has problem g modulo NUM_PROBLEMS."""

    def __init__(self, paths: RunPaths, config: RunConfig, write_policy: Callable[..., None]) -> None:
        self.paths, self.config, self.spool = paths, config, Spool(paths.spool)
        self.problems = [
            Problem(
                prompt_id=f"p{number}",
                prompt=f"{number}+{number}?",
                answer=str(2 * number % 10),
                source="test",
            )
            for number in range(NUM_PROBLEMS)
        ]
        write_problems(paths.root / "train.parquet", self.problems)
        self._write_policy = write_policy
        self._names: dict[int, tuple[str, str]] = {}

    def publish(self, policy_version: int, groups: range, prompt_id: str | None = None) -> PolicyManifest:
        name, sha256 = self.publish_weights(policy_version)
        admitted = [(group, prompt_id or self.problems[group % NUM_PROBLEMS].prompt_id) for group in groups]
        manifest = make_manifest(
            policy_version,
            name=name,
            sha256=sha256,
            next_group=groups.start,
            admitted=admitted,
            published_s=time.time(),
        )
        publish_manifest(self.paths, manifest)
        return manifest

    def publish_weights(self, policy_version: int) -> tuple[str, str]:
        """(name, sha256) of the policy with random weights number `policy_version`."""
        if policy_version not in self._names:
            write = lambda folder: self._write_policy(folder, seed=policy_version)  # noqa: E731
            self._names[policy_version] = publish_weights(self.paths, policy_version, write)
        return self._names[policy_version]

    def request(self, policy_version: int) -> EvaluationRequest:
        """Ask for the evaluation of a policy, with its version as the step."""
        name, sha256 = self.publish_weights(policy_version)
        request = make_request(
            policy_version,
            name=name,
            sha256=sha256,
            epoch=0.5 * policy_version,
            generated_tokens=150 * policy_version,
            trained_tokens=100 * policy_version,
            flops=1e6 * policy_version,
            published_s=1000.0 + policy_version,
        )
        request_evaluation(self.paths, request)
        return request

    def wait_for(self, groups: range, deadline_s: float = 300) -> None:
        end_s = time.monotonic() + deadline_s
        while missing := set(groups) - self.spool.present(groups.start, groups.stop):
            assert time.monotonic() < end_s, f"waited {deadline_s} s for the groups {sorted(missing)}"
            time.sleep(0.05)


@pytest.fixture
def make_run(tmp_path, write_policy) -> Callable[..., FakeTrainer]:
    """make_run(**{"key": value}): make a run folder of a tiny config, claimed as attempt 1."""

    def make(**changes) -> FakeTrainer:
        paths = RunPaths(tmp_path / "run")
        paths.root.mkdir()
        paths.create()
        base = tmp_path / "base"
        write_policy(base, seed=0)
        values = {
            "model.path": str(base),
            "model.dtype": "float32",
            "data.train": str(paths.root / "train.parquet"),
            "data.heldout": str(paths.root / "train.parquet"),
            "length.max_prompt_tokens": 16,
            "length.max_thinking_tokens": 30,
            "length.max_solution_tokens": 10,
            "length.interruption_min_tokens": 10,
            "length.interruption_max_tokens": 20,
            "length.interruption_text": "=>",
            "length.think_end": ">",
            "batch.prompts": 2,
            "batch.generations_per_prompt": 4,
            "generator.num": 1,
            "generator.max_num_seqs": 16,
            "generator.kv_cache_gb": 0.1,
            "generator.verifier_workers": 1,
            "trainer.micro_batch_tokens": 256,
            "evaluation.num": 1,
        }
        config = build_config(values | changes)
        write_json(paths.config, {"signature": config.signature(), "config": config.model_dump(mode="json")})
        assert claim_attempt(paths) == 1
        return FakeTrainer(paths, config, write_policy)

    return make
