"""The pytest plugin: the fixture ``slimsight`` and the marker of the same name. It does nothing until one is used.

pytest imports this file at every start, in every project of the environment: nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from .deploy.testing.arguments import Images

_MARKER = "slimsight"
_CHECKED = ("macs", "params", "size")


class Slimsight:
    """The value of the fixture: the functions of ``slimsight.testing``, whose figures also go into JUnit files."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self.checked = False
        """Whether the test called ``check``."""

    def assert_macs(self, model: nn.Module, x: Images, max: str | float, **options: Any) -> int:
        """As ``slimsight.testing.assert_macs``."""
        __tracebackhide__ = True
        from . import testing

        return int(self._record("macs", partial(testing.assert_macs, model, x, max, **options)))

    def assert_params(self, model: nn.Module, max: str | float, **options: Any) -> int:
        """As ``slimsight.testing.assert_params``."""
        __tracebackhide__ = True
        from . import testing

        return int(self._record("params", partial(testing.assert_params, model, max, **options)))

    def assert_size(self, model: nn.Module, max: str | float, **options: Any) -> int:
        """As ``slimsight.testing.assert_size``."""
        __tracebackhide__ = True
        from . import testing

        return int(self._record("size_bytes", partial(testing.assert_size, model, max, **options)))

    def assert_latency(self, model: nn.Module, x: Images, max: str | float, **options: Any) -> float:
        """As ``slimsight.testing.assert_latency``."""
        __tracebackhide__ = True
        from . import testing

        return self._record("latency_ms", partial(testing.assert_latency, model, x, max, **options))

    def assert_budget(self, target: str | PathLike[str], budget: str | PathLike[str], **options: Any) -> None:
        """As ``slimsight.testing.assert_budget``."""
        __tracebackhide__ = True
        from . import testing

        testing.assert_budget(target, budget, **options)

    def check(self, model: nn.Module, x: Images, *, against: nn.Module | None = None) -> None:
        """Check ``model`` against the limits of the marker ``slimsight``: of the test, its class, its file, in order.

        Args:
            x: images, or their shape, as for ``assert_macs``.
            against: what limits that are shares refer to.

        Raises:
            AssertionError: a limit is exceeded.
            pytest.UsageError: there is no marker, or it has a key that is no limit.
        """
        __tracebackhide__ = True
        self.checked = True
        limits = _limits(self._item)
        if "macs" in limits:
            self.assert_macs(model, x, limits["macs"], **_reference(limits["macs"], against))
        if "params" in limits:
            self.assert_params(model, limits["params"], **_reference(limits["params"], against))
        if "size" in limits:
            self.assert_size(model, limits["size"], **_reference(limits["size"], against))

    def _record(self, name: str, measure: Callable[[], float]) -> float:
        __tracebackhide__ = True
        value = measure()
        self._item.user_properties.append((f"slimsight.{name}", value))
        return value


@pytest.fixture
def slimsight(request: pytest.FixtureRequest) -> Slimsight:
    """assert_macs, assert_params, assert_size, assert_latency, assert_budget; check(model, x): the marker's limits."""
    return Slimsight(request.node)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(macs='60M', params='1.2M', size='5MB'): the most that slimsight.check(model, x) allows a model",
    )


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A marker whose limits no test checks would pass in silence."""
    result = yield
    if pyfuncitem.get_closest_marker(_MARKER) is not None:
        fixture = pyfuncitem.funcargs.get("slimsight")
        if not (isinstance(fixture, Slimsight) and fixture.checked):
            pytest.fail(
                f"the marker {_MARKER} names limits, and the test checked no model against them: "
                "take the fixture slimsight and call slimsight.check(model, x)",
                pytrace=False,
            )
    return result


def _limits(item: pytest.Item) -> dict[str, Any]:
    """Limits of all markers around the test; the closest wins, key by key."""
    __tracebackhide__ = True
    limits: dict[str, Any] = {}
    for marker in item.iter_markers(_MARKER):
        if unknown := [key for key in marker.kwargs if key not in _CHECKED]:
            raise pytest.UsageError(
                f"the marker {_MARKER} has {', '.join(unknown)}: give {', '.join(_CHECKED)}, or call assert_latency"
            )
        if marker.args or not marker.kwargs:
            raise pytest.UsageError(f"the marker {_MARKER} needs names: @pytest.mark.{_MARKER}(macs='60M')")
        limits = {**marker.kwargs, **limits}
    if not limits:
        raise pytest.UsageError(
            f"slimsight.check(model, x) has no limits: mark the test, e.g. @pytest.mark.{_MARKER}(macs='60M')"
        )
    return limits


def _reference(limit: object, against: nn.Module | None) -> dict[str, Any]:
    """``against`` for a limit that is a share of it; amounts refer to nothing."""
    from .deploy.testing.arguments import is_share

    return {"against": against} if is_share(limit) else {}
