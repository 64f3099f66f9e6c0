"""scalerl: RL on language models as HPC batch jobs, with scaling curves that predict."""
