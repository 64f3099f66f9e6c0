"""Rounds of the generator's loop in this process, with a real engine and verifier."""

import time

import pytest

from scalerl.common.files import read_json, write_json
from scalerl.fence import StaleAttempt, claim_attempt, release_attempt
from scalerl.generator.loop import Generator


@pytest.fixture
def make_generator(open_engine):
    """make_generator(trainer): a Generator that serves the trainer's first manifest."""
    open_generators = []

    def make(trainer, manifest, index=0):
        context = open_engine(trainer.paths.weights / manifest.name, manifest.policy_version)
        problems = {problem.prompt_id: problem for problem in trainer.problems}
        generator = Generator(
            trainer.config, trainer.paths, index, 1, problems, context.__enter__(), manifest, seed=0
        )
        open_generators.append((generator, context))
        return generator

    yield make
    for generator, context in open_generators:
        generator._sampler.abort()
        generator.close()
        context.__exit__(None, None, None)


def rounds_until(generator, condition, deadline_s=60):
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s
        generator.advance()


def test_lowest_groups_first_and_the_engine_never_overfull(make_run, make_generator):
    trainer = make_run()
    generator = make_generator(trainer, trainer.publish(0, range(0, 30)))
    most, started = 0, []
    while len(trainer.spool.present(0, 30)) < 30:
        generator.advance()
        most = max(most, generator._sampler.num_running)
        started += [group for group in generator._groups if group not in started]
    assert 16 <= most < 16 + 4, "full, with less than one group in reserve"
    assert started == list(range(30))


def test_a_policy_that_arrives_in_flight_marks_the_tokens_after_it(make_run, make_generator):
    trainer = make_run(**{"length.length_control": "none", "length.max_thinking_tokens": 40})
    generator = make_generator(trainer, trainer.publish(0, range(0, 4)))
    for _ in range(4):
        generator.advance()
    trainer.publish(1, range(0, 6))
    rounds_until(
        generator, lambda: generator._engine.policy_version == 1 or not generator._sampler.num_running
    )
    rounds_until(generator, lambda: trainer.spool.present(0, 6) == set(range(6)))
    by_group = {
        group: [rollout.policy_versions for rollout in trainer.spool.read(group)] for group in range(6)
    }
    assert all(set(versions) == {1} for group in (4, 5) for versions in by_group[group])
    crossed = [versions for group in range(4) for versions in by_group[group] if set(versions) == {0, 1}]
    assert crossed
    assert all(versions == sorted(versions) for versions in crossed)


def test_a_trainer_that_goes_back_takes_its_generators_along(make_run, make_generator):
    trainer = make_run(**{"length.length_control": "none", "length.max_thinking_tokens": 40})
    generator = make_generator(trainer, trainer.publish(3, range(4, 8)))
    for _ in range(3):
        generator.advance()
    assert generator._sampler.num_running
    old = trainer.publish(0, range(0, 6))  # the trainer resumed from its checkpoint
    # a fast machine would finish groups of policy 3 first, which the trainer refuses
    while generator._follower.latest() != old:
        time.sleep(0.01)
    rounds_until(generator, lambda: trainer.spool.present(0, 8) == set(range(6)))
    assert generator._engine.policy_name == old.name
    versions = {
        version
        for group in range(6)
        for rollout in trainer.spool.read(group)
        for version in rollout.policy_versions
    }
    assert versions == {0}


def test_nothing_is_published_into_a_folder_of_a_newer_attempt(make_run, make_generator):
    trainer = make_run()
    generator = make_generator(trainer, trainer.publish(0, range(0, 2)))
    release_attempt(trainer.paths, 1)
    assert claim_attempt(trainer.paths) == 2
    with pytest.raises(StaleAttempt, match="attempt 2 owns"):
        rounds_until(generator, lambda: False)
    assert trainer.spool.present(0, 2) == set()


def test_bad_input_is_named(make_run, make_generator):
    trainer = make_run()
    generator = make_generator(trainer, trainer.publish(0, range(0, 1), prompt_id="nobody"))
    with pytest.raises(ValueError, match="group 0 has the prompt nobody"):
        generator.advance()


def test_weights_that_differ_from_their_hash_end_the_generator(make_run, make_generator):
    trainer = make_run()
    generator = make_generator(trainer, trainer.publish(0, range(0, 1)))
    manifest = read_json(trainer.paths.latest_policy)
    name, _ = trainer.publish_weights(1)
    wrong = manifest | {"policy_version": 1, "name": name, "sha256": "0" * 64}
    write_json(trainer.paths.latest_policy, wrong)
    with pytest.raises(ValueError, match="wrong file"):
        rounds_until(generator, lambda: False)
