"""The bound on off-policyness: the real admission rules in a simulated run, where everything may be late, die
and come back."""

from dataclasses import dataclass, field
from random import Random

import pytest
from factories import make_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.config import OffPolicyConfig
from scalerl.spool.admission import (
    PolicyManifest,
    admit_until,
    goes_back,
    is_generation_policy,
    startable_groups,
)

Window = dict[int, list[int]]


@dataclass
class SimulatedGenerator:
    index: int
    seen: PolicyManifest
    served: tuple[str, int]
    running: Window = field(default_factory=dict)
    """Group -> policy versions of its tokens so far."""


class SimulatedRun:
    """One trainer and some generators that share a spool and a manifest; time only passes by `act`."""

    def __init__(self, off_policy, random, num_generators, batch_prompts, surplus=0, growth=0.1):
        self.off_policy, self.random, self.surplus, self.growth = off_policy, random, surplus, growth
        self.spool: Window = {}
        self.checkpoint = self.step = self.next_group = 0
        self.history = [(0, batch_prompts)]
        """(next_group, batch_prompts) of every step reached."""
        self.largest = 0
        self.publish()
        self.generators = [self.start_generator(index) for index in range(num_generators)]

    def publish(self):
        next_group, batch_prompts = self.history[self.step]
        end = admit_until(self.off_policy, self.step, next_group, batch_prompts) + self.surplus
        self.manifest = make_manifest(
            self.step,
            next_group=next_group,
            batch_prompts=batch_prompts,
            admitted=[(group, "p") for group in range(next_group, end)],
        )

    def start_generator(self, index):
        return SimulatedGenerator(index, self.manifest, (self.manifest.name, self.manifest.policy_version))

    def train(self):
        next_group, batch_prompts = self.history[self.step]
        batch = range(next_group, next_group + batch_prompts)
        if not all(group in self.spool for group in batch):
            return
        for group in batch:
            # lost after it was trained, generated again, and then the trainer went back
            if max(self.spool[group]) > self.step:
                del self.spool[group]
                return
        self.largest = max(
            self.largest, max(self.step - version for group in batch for version in self.spool[group])
        )
        self.step += 1
        if self.step == len(self.history):
            # dynamic batch size: batches only grow
            grown = batch_prompts + (self.random.random() < self.growth)
            self.history.append((batch.stop, grown))
        if is_generation_policy(self.off_policy, self.step):
            self.publish()

    def act(self):
        generator = self.random.choice(self.generators)
        action = self.random.random()
        if action < 0.3:
            self.train()
        elif action < 0.45:
            self.follow(generator)
        elif action < 0.75:
            self.start_group(generator)
        elif action < 0.95:
            self.sample(generator)
        elif action < 0.965:
            self.generators[generator.index] = self.start_generator(generator.index)  # kill -9
        elif action < 0.98:
            self.spool.pop(self.random.choice([*self.spool, 0]), None)  # quarantined
        elif action < 0.99:
            self.checkpoint = self.step
        else:
            self.step = self.checkpoint  # the trainer dies and resumes, in the middle of a phase or not
            self.publish()

    def follow(self, generator):
        generator.seen = self.manifest
        if goes_back(generator.seen, generator.served[1]):
            generator.running.clear()
        generator.served = (generator.seen.name, generator.seen.policy_version)

    def start_group(self, generator):
        taken = self.spool.keys() | generator.running.keys()
        startable = startable_groups(
            generator.seen,
            generator.served[1],
            index=generator.index,
            num_generators=len(self.generators),
            taken=taken,
        )
        for group, _ in startable[: self.random.randint(1, 3)]:
            generator.running[group] = []

    def sample(self, generator):
        for tokens in generator.running.values():
            tokens.append(generator.served[1])
        for group in [group for group in generator.running if self.random.random() < 0.5]:
            tokens = generator.running.pop(group)
            self.spool.setdefault(group, tokens)


def configs():
    return [OffPolicyConfig(mode=mode, k=k) for mode in ("pipeline_rl", "ppo_off_policy") for k in (1, 2, 8)]


@pytest.mark.parametrize("off_policy", configs(), ids=lambda config: f"{config.mode}-{config.k}")
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_generators=st.integers(1, 3), batch_prompts=st.integers(1, 4))
def test_off_policyness_never_exceeds_the_bound(off_policy, seed, num_generators, batch_prompts):
    run = SimulatedRun(off_policy, Random(seed), num_generators, batch_prompts)
    for _ in range(400):
        run.act()
    assert run.largest <= off_policy.max_off_policyness


@pytest.mark.parametrize("off_policy", configs(), ids=lambda config: f"{config.mode}-{config.k}")
def test_the_bound_is_reached_and_one_group_more_would_break_it(off_policy):
    def largest(surplus):
        run = SimulatedRun(
            off_policy, Random(0), num_generators=1, batch_prompts=2, surplus=surplus, growth=0
        )
        (generator,) = run.generators
        while startable_groups(generator.seen, 0, index=0, num_generators=1, taken=generator.running):
            run.start_group(generator)
        while generator.running:
            run.sample(generator)  # with the first policy only
        run.follow(generator)
        while run.step < off_policy.max_off_policyness + 2:
            before = run.step
            run.train()
            if run.step == before:
                run.follow(generator)
                run.start_group(generator)
                run.sample(generator)
        return run.largest

    assert largest(surplus=0) == off_policy.max_off_policyness
    assert largest(surplus=1) == off_policy.max_off_policyness + 1


@pytest.mark.parametrize("off_policy", configs(), ids=lambda config: f"{config.mode}-{config.k}")
def test_the_trainer_never_starves(off_policy):
    run = SimulatedRun(off_policy, Random(1), num_generators=3, batch_prompts=3)
    for _ in range(20_000):
        run.act()
    assert run.step > 30
