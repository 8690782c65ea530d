"""Factories in users' model files: found by name, and called with the number of classes where they take it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..registry import nearest

CLASSES_NAMES = ("classes", "num_classes", "n_classes")
"""A factory's parameter of one of these names receives the number of classes."""


def find_factory(module: ModuleType, path: Path, name: str) -> Callable[..., Any]:
    """What ``module`` calls ``name``, or ``name.of.a.part``.

    Raises:
        ConfigError: there is no such thing, or it is no factory.
    """
    candidates = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    listed = f"it defines: {', '.join(candidates)}" if candidates else "it defines no function or class"
    factory: Any = module if name else None
    for part in name.split(".") if name else ():
        factory = getattr(factory, part, None)
    if factory is None:
        what = f"has no '{name}'{nearest(name, candidates)}" if name else "needs the name of a factory"
        raise ConfigError(f"model file {path} {what} ({listed}); give path/to/file.py:factory")
    if isinstance(factory, nn.Module):
        raise ConfigError(
            f"'{name}' in model file {path} is a {type(factory).__name__}, a model and not a factory ({listed}): give "
            "a function that returns a new one"
        )
    if not callable(factory):
        raise ConfigError(f"'{name}' in model file {path} is a {type(factory).__name__}, not a factory ({listed})")
    return factory  # type: ignore[no-any-return]


def call_factory(factory: Callable[..., Any], name: str, path: Path, classes: int) -> Callable[[], Any]:
    """The call of ``factory`` with the number of classes, or with nothing.

    Only a parameter called ``classes``, ``num_classes`` or ``n_classes`` receives it; one that ``functools.partial``
    has set keeps its value.

    Raises:
        ConfigError: it needs other arguments.
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"what arguments model factory '{name}' of {path} takes is not known: wrap it in a function with a "
            "parameter `classes`, or without parameters"
        ) from error
    bound = factory.keywords if isinstance(factory, functools.partial) else {}
    key = next((key for key in CLASSES_NAMES if key in parameters and key not in bound), None)
    required = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name != key
    ]
    if required:
        raise ConfigError(
            f"model factory '{name}' of {path} needs arguments ({', '.join(required)}); the number of classes is given "
            f"to a parameter called {', '.join(CLASSES_NAMES[:-1])} or {CLASSES_NAMES[-1]}, and nothing to any other: "
            "rename it, or wrap the factory in a function that supplies the rest"
        )
    if key is None:
        return factory
    if parameters[key].kind is not inspect.Parameter.POSITIONAL_ONLY:
        return functools.partial(factory, **{key: classes})
    before = [parameters[other].default for other in list(parameters)[: list(parameters).index(key)]]
    return functools.partial(factory, *before, classes)
