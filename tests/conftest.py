import torch

torch.set_num_threads(1)  # the models are tiny, and more threads than free cores make them slower
