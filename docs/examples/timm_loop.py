"""A student of timm's on cached labels, with timm's own optimiser, schedule and average of the weights.

python docs/examples/timm_loop.py
"""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy

from student.loader import ViewLoader
from teacher_cache.device import Normalise

STORE, OUT, EPOCHS = "runs/digits/store", "runs/digits/timm_student.pt", 3


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with ViewLoader(STORE, batch_size=256, epochs=EPOCHS, repeats=2, workers=2, device=device) as loader:
        normalise = Normalise(loader.store.policy.mean, loader.store.policy.std, loader.device)
        model = timm.create_model("resnet10t", num_classes=loader.store.num_classes).to(device)
        average = ModelEmaV3(model, decay=0.99)
        optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
        in_steps = {"updates_per_epoch": loader.steps(0), "step_on_epochs": False}
        schedule, _ = create_scheduler_v2(optimizer, num_epochs=EPOCHS, warmup_epochs=1, warmup_lr=1e-5, **in_steps)
        for step, batch in enumerate(loader):
            schedule.step_update(step)
            loss = cross_entropy(model(normalise(batch.views)), batch.labels)  # the teacher's, of these very pixels
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(model, step)
            print(batch.epoch, batch.step, f"lr {optimizer.param_groups[0]['lr']:.6f}", f"loss {loss.item():.4f}")
    torch.save(average.module.state_dict(), OUT)


if __name__ == "__main__":  # on Linux it may be left out
    main()
