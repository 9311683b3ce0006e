import os

# Training and filling set torch's threads from the cores unless this says otherwise; the models are tiny, more threads
# than free cores make them slower, and another number of threads changes the last bits.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
