"""What preflight asks the engines before a run: each exam is a process that loads one as a role would.

    scalerl role ROLE --exam NAME --dir runs/x --attempt 1        (started by `scalerl run`)

    NAME        ROLE        function                                       writes preflight/
    trainer     trainer     trainer.run_trainer_exam(run_dir, rank=, attempt=)    policy/, then trainer_alone
                                                                           and trainer_packed.parquet
    generator   generator   generator.run_generator_exam(run_dir, attempt=)       generator and
                                                                           generator_reloaded.parquet
    reference   generator   reference.run_reference_exam(run_dir, attempt=)       reference, _twin and
                                                                           _fp32.parquet

The first two run side by side, as in a run: the trainer publishes the base model (`handover.publish_base`),
the generator starts from that and samples, and the trainer, which has waited for it
(`handover.wait_for_sequences`), scores what came. Each of them writes its figures (`preflight.exam`), too,
among them tokens_per_s. The reference takes the generator's device after that.
"""
