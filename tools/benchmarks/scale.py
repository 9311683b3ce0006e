"""How large everything is that the benchmark makes. TINY runs every line in seconds; its figures say nothing."""

from dataclasses import dataclass

from teacher_cache.teacher.names import GivenModel

MODELS = "tools.benchmarks.models"


@dataclass(frozen=True)
class Scale:
    images: int  # of rendering rows and of stage one; whole blocks
    image_size: tuple[int, int]  # mean height and width
    image_bytes: int  # mean
    view_px: int
    dali_batch: int
    teacher: GivenModel  # the expensive one
    cheaper_teacher: GivenModel
    teacher_batch: int  # its batch shape on a CPU, and the students' batch
    teacher_images: int  # of a (block, view) of stage one with the expensive teacher: a whole number of its batches
    recipe: str
    student: tuple[str, ...]  # settings over the recipe
    block_samples: int  # of the shards that stage two trains from: one block each
    window_views: int  # that stage two trains in a turn: a block's three views
    loader_batches: int  # of three views of a block that the loader yields in a turn
    rendering_processes: int | None  # None: as the row says
    digest_turns: int  # of the row that compares the cheapest things
    simulated: tuple[int, int, int, int]  # samples, shards, views, classes of the simulated store
    startup_commands: int | None  # that are started of a kind; None: all
    plan_samples: tuple[int, int, int]  # few, many, and those of ImageNet
    gpu_batch: int  # at most, of teachers and students
    gpu_copies: int  # of each image in the shards of the GPU's benchmark
    gpu_teacher_copies: int  # the same where an expensive teacher labels them
    gpu_views: int  # of a sample that stage one labels in a turn
    gpu_turn_s: float  # that a turn of a student's trains
    small_pictures: tuple[tuple[int, int], int]  # mean size and bytes of pictures as CIFAR's
    small_copies: int
    small_model: str
    small_batch: int


FULL = Scale(
    images=192,
    image_size=(392, 474),
    image_bytes=110_000,
    view_px=224,
    dali_batch=64,
    teacher=GivenModel(f"{MODELS}:regnety_160"),
    cheaper_teacher=GivenModel(f"{MODELS}:resnet50"),
    teacher_batch=16,
    teacher_images=16,
    recipe="deit_tiny_distilled",
    student=(),
    block_samples=32,
    window_views=96,
    loader_batches=8,
    rendering_processes=None,
    digest_turns=15,
    simulated=(1_281_167, 1024, 304, 1000),
    startup_commands=None,
    plan_samples=(10_000, 1_000_000, 1_281_167),
    gpu_copies=32,
    gpu_teacher_copies=4,
    gpu_views=16,
    gpu_turn_s=1.0,
    gpu_batch=1024,
    small_pictures=((32, 32), 1200),
    small_copies=128,
    small_model="resnet18",
    small_batch=256,
)

TINY = Scale(
    images=16,
    image_size=(40, 48),
    image_bytes=1_500,
    view_px=32,
    dali_batch=8,
    teacher=GivenModel(f"{MODELS}:one_layer"),
    cheaper_teacher=GivenModel(f"{MODELS}:one_layer"),
    teacher_batch=6,
    teacher_images=6,
    recipe="deit_tiny_distilled",
    student=(f"model={MODELS}:small_student", "drop_path=none", "token_init_std=none"),
    block_samples=4,
    window_views=12,
    loader_batches=1,
    rendering_processes=0,
    digest_turns=2,
    simulated=(300, 2, 16, 20),
    startup_commands=2,
    plan_samples=(2_000, 4_000, 5_000),
    gpu_copies=3,
    gpu_teacher_copies=1,
    gpu_views=2,
    gpu_turn_s=0.01,
    gpu_batch=12,
    small_pictures=((32, 32), 1200),
    small_copies=1,
    small_model="small_student",
    small_batch=4,
)
