"""Triton's interpreter in a third of its time."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from triton.runtime import interpreter


def hasten() -> None:
    """What a device function calls is patched at its module's first call, not searched for what to patch at each; types
    are translated once; an integer that overflows is found in NumPy, not by five more tensors."""
    _patch_once()
    _translate_once()
    _check_in_numpy()


def _patch_once() -> None:
    call, patched = interpreter.InterpretedFunction.__call__, set()

    def call_patched(function: Any, *args: Any, **kwargs: Any) -> Any:
        if function.fn.__module__ in patched:
            return function.rewrite()(*args, **kwargs)
        patched.add(function.fn.__module__)
        return call(function, *args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call_patched


def _translate_once() -> None:
    translate, known = interpreter._get_np_dtype, dict[str, np.dtype]()

    def known_dtype(type_: Any) -> np.dtype:
        name = type_.scalar.name
        if name not in known:
            known[name] = translate(type_)
        return known[name]

    interpreter._get_np_dtype = known_dtype


def _check_in_numpy() -> None:
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    for name, wide in (("create_add", np.add), ("create_sub", np.subtract), ("create_mul", np.multiply)):
        setattr(type(builder), name, _checked(getattr(type(builder), name), wide, name))


def _checked(operation: Callable[..., Any], wide: np.ufunc, name: str) -> Callable[..., Any]:
    def checked(builder: Any, one: Any, other: Any) -> Any:
        found = operation(builder, one, other)
        if one.data.dtype.kind in "iu" and one.data.itemsize < 8:
            exact = wide(one.data, other.data, dtype=np.int64)
            assert np.array_equal(found.data, exact), f"{found.dtype} overflows in {name}"
        return found

    return checked
