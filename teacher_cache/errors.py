"""Every error this project raises on purpose.

TeacherCacheError               the command line prints it as one line and exits with 1
├── ShardError                  a shard is not whole, or not what its index says
│   ├── ImageError              the bytes of one image cannot be decoded
│   └── MissingSampleError      no sample has the key that is asked for
├── PolicyError                 an unknown or impossible augmentation setting
├── StoreError                  a store is absent, of another schema, damaged, or does not hold what was asked of it
│   ├── MissingLabelError       a view that training needs is not labelled
│   └── DriftError              replayed pixels are not the ones that the teacher labelled
├── ModelError                  a model cannot be built: its name, its arguments, its function
├── TeacherError                a teacher does not fit the store, or does not answer as a teacher shall
│   └── AgreementError          its labels agree with the ground truth no better than chance
├── RecipeError                 an unknown or impossible training setting
├── PlanError                   batch, ranks, repeats and views do not fit each other
├── CheckpointError             a checkpoint is absent, damaged, or belongs to another run
├── TrainingError               the loss, a weight, or what a student answers is no longer a number
├── DiskError                   what shall be written cannot be: a full, read-only or broken disk
├── StorageError                an object store, or another place far away, refuses or does not answer
│   └── ChangedError            what is read there is not what was there before
├── BusyError                   another process writes there
├── RenderError                 a rendering process died, hangs or cannot be started
├── DeviceError                 the device asked for is not there, or is not this rank's
└── RankError                   another rank of the job died or hangs
"""

from teacher_cache.messages.shown import MESSAGE, shown


class TeacherCacheError(Exception):
    """Base of the tree. Its message is one line: what was found, where, what to do; whatever names are in it."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message, MESSAGE))


class ShardError(TeacherCacheError):
    pass


class ImageError(ShardError):
    pass


class MissingSampleError(ShardError):
    pass


class PolicyError(TeacherCacheError):
    pass


class StoreError(TeacherCacheError):
    pass


class MissingLabelError(StoreError):
    pass


class DriftError(StoreError):
    pass


class ModelError(TeacherCacheError):
    pass


class TeacherError(TeacherCacheError):
    pass


class AgreementError(TeacherError):
    pass


class RecipeError(TeacherCacheError):
    pass


class PlanError(TeacherCacheError):
    pass


class CheckpointError(TeacherCacheError):
    pass


class TrainingError(TeacherCacheError):
    pass


class DiskError(TeacherCacheError):
    pass


class StorageError(TeacherCacheError):
    pass


class ChangedError(StorageError):
    pass


class BusyError(TeacherCacheError):
    pass


class RenderError(TeacherCacheError):
    pass


class DeviceError(TeacherCacheError):
    pass


class RankError(TeacherCacheError):
    pass
