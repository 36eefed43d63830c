import torch
from hypothesis import HealthCheck, settings

# One profile for all: the same examples on every run, and no deadline, because the oracle is slow and machines differ.
settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")
torch.set_num_threads(1)
