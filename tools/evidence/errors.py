"""What the evidence cannot do as it was asked."""

from teacher_cache.errors import TeacherCacheError


class EvidenceError(TeacherCacheError):
    """Settings, rows or folders of the evidence do not fit each other."""
