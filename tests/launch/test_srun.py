"""Where the roles of a run are placed in a Slurm job, and what srun is told."""

import pytest

from scalerl.cluster.site import StepsSite
from scalerl.cluster.slurm import Allocation, Node
from scalerl.launch.examination import exam_stages
from scalerl.launch.srun import step_layout
from scalerl.settings import load_config


def allocation(*nodes: Node) -> Allocation:
    return Allocation(job_id="1", start_s=0.0, end_s=None, restarts=0, nodes=list(nodes))


def nodes(count: int, gpus: int, het_group: int = 0, prefix: str = "n") -> list[Node]:
    return [
        Node(name=f"{prefix}{i}", gpus=gpus, cpus=64, mem_mb=800_000, het_group=het_group)
        for i in range(count)
    ]


def flag(process, name: str) -> str:
    return next(word.split("=", 1)[1] for word in process.prefix if word.startswith(f"--{name}="))


def test_the_paper_s_eighty_gpus_are_used_up():
    layout = step_layout(load_config([], []), allocation(*nodes(10, 8)), StepsSite())
    (trainer,) = layout.trainers
    assert flag(trainer, "nodelist") == "n0,n1" and flag(trainer, "ntasks") == "16"
    assert flag(trainer, "ntasks-per-node") == flag(trainer, "gpus-per-node") == "8"
    assert layout.trainer_address == "n0"
    used = [flag(process, "nodelist") for process in [*layout.generators, *layout.evaluators]]
    assert sorted(used) == sorted(f"n{i}" for i in range(2, 10) for _ in range(8))
    assert all(flag(process, "gpus-per-node") == "1" for process in layout.generators)
    assert sum(process.num_devices for process in layout.processes) == 80
    assert [process.name for process in layout.evaluators] == [f"evaluator-{index}" for index in range(8)]
    assert layout.evaluators[7].arguments == ["evaluator", "--index", "7"]


def test_memory_and_cpus_are_shared_by_devices():
    config = load_config(
        [], ["trainer.num_ranks=2", "generator.num=1", "evaluation.num=1", "generator.tensor_parallel_size=2"]
    )
    layout = step_layout(
        config, allocation(*nodes(1, 8)), StepsSite(container=["apptainer"], srun=["--mpi=none"])
    )
    (trainer,), (generator,) = layout.trainers, layout.generators
    assert (flag(trainer, "cpus-per-task"), flag(trainer, "mem")) == (
        "8",
        "190000M",
    )  # 64 / 8 a rank; .95 * 800000 * 2 / 8
    assert (flag(generator, "cpus-per-task"), flag(generator, "mem")) == ("16", "190000M")
    assert generator.prefix[-2:] == ["--mpi=none", "apptainer"]


def test_ranks_lie_evenly_on_their_nodes():
    config = load_config([], ["trainer.num_ranks=6", "generator.num=1", "evaluation.num=1"])
    (trainer,) = step_layout(config, allocation(*nodes(3, 4)), StepsSite()).trainers
    assert (flag(trainer, "nodelist"), flag(trainer, "ntasks-per-node")) == ("n0,n1", "3")


def test_a_heterogeneous_job_has_its_trainer_on_the_first_kind_of_node():
    config = load_config([], ["trainer.num_ranks=4", "generator.num=6", "evaluation.num=2"])
    mixed = allocation(*nodes(1, 4), *nodes(2, 4, het_group=1, prefix="g"))
    layout = step_layout(config, mixed, StepsSite())
    assert flag(layout.trainers[0], "het-group") == "0"
    assert {flag(process, "het-group") for process in [*layout.generators, *layout.evaluators]} == {"1"}
    assert {flag(process, "nodelist") for process in layout.generators} == {"g0", "g1"}


def test_without_gpus_every_process_takes_cpus():
    config = load_config([], ["trainer.num_ranks=2", "generator.num=1", "evaluation.num=1"])
    layout = step_layout(config, allocation(Node(name="c", gpus=0, cpus=8, mem_mb=8000)), StepsSite())
    assert all("gpus-per-node" not in " ".join(process.prefix) for process in layout.processes)
    assert flag(layout.evaluators[0], "cpus-per-task") == "1"


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        (["trainer.num_ranks=2", "generator.num=3"], (1, 4)),
        (["trainer.num_ranks=1", "generator.num=1", "generator.tensor_parallel_size=4"], (2, 4)),
        (["trainer.num_ranks=5", "generator.num=1"], (2, 4)),
        (["trainer.num_ranks=2", "generator.num=1", "evaluation.num=2"], (1, 4)),
    ],
)
def test_a_job_that_is_too_small_is_refused_with_what_is_needed(changes, shape):
    with pytest.raises(
        ValueError, match=r"need \d+ GPUs.*this job has n0 4.*Ask for more nodes, or lower these"
    ):
        step_layout(load_config([], ["evaluation.num=1", *changes]), allocation(*nodes(*shape)), StepsSite())


def test_exams_are_steps_in_the_places_of_the_roles_they_examine():
    config = load_config([], ["trainer.num_ranks=2", "generator.num=2", "evaluation.num=1"])
    layout = step_layout(config, allocation(*nodes(1, 8)), StepsSite())
    first, second = exam_stages(layout)
    trainer, generator = first.processes
    (reference,) = second.processes
    assert (trainer.prefix, trainer.num_devices) == (layout.trainers[0].prefix, 2)
    assert trainer.arguments == ["trainer", "--exam", "trainer"]  # each task is a rank
    assert generator.arguments == ["generator", "--index", "0", "--exam", "generator"]
    assert reference.arguments == ["generator", "--index", "0", "--exam", "reference"]
    assert generator.prefix == reference.prefix == layout.generators[0].prefix
    names = [process.words_before(3)[1] for process in (trainer, generator, reference)]
    assert names == [f"--job-name={name}-exam.3" for name in ("trainer", "generator-0", "reference")], (
        "a step that hangs is killed by its own name"
    )
    assert [process.name for process in layout.processes][:2] == ["trainer", "generator-0"]
