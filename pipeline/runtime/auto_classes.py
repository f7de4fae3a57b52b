"""The Auto classes and pipelines of transformers find ours when they look for them: `import diptych` is enough.

Nothing of ours is loaded before, and transformers is not loaded for it. Where it keeps what users registered, a dict
stands that registers ours when it is asked for them.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

MODEL_TYPE = "diptych"
TASK = "image-text-classification"


class _OnDemand(dict[Any, Any]):
    """What users registered; ours is registered when `key` is looked up, or all of it if there is none."""

    def __init__(self, registered: dict[Any, Any], register: Callable[[], object], key: str | None = None) -> None:
        super().__init__(registered)
        self.register, self.key = register, key

    def __contains__(self, key: object) -> bool:
        if key == self.key:
            self.register()
        return super().__contains__(key)

    def values(self) -> Any:
        if self.key is None:  # classes are looked for by their name
            self.register()
        return super().values()


def _prepare(name: str, module: ModuleType, register: Callable[[], object]) -> None:
    """Put the dicts of a module of transformers in their places."""
    if name == "transformers.pipelines":
        registry = module.PIPELINE_REGISTRY
        registry.supported_tasks = _OnDemand(registry.supported_tasks, register, TASK)
    elif name.endswith("configuration_auto"):
        mapping = module.CONFIG_MAPPING
        mapping._extra_content = _OnDemand(mapping._extra_content, register, MODEL_TYPE)
    else:
        of_images = name.endswith("image_processing_auto")
        mapping = module.IMAGE_PROCESSOR_MAPPING if of_images else module.PROCESSOR_MAPPING
        mapping._extra_content = _OnDemand(mapping._extra_content, register)


_AUTO = ("configuration_auto", "image_processing_auto", "processing_auto")
_MODULES = ("transformers.pipelines", *(f"transformers.models.auto.{name}" for name in _AUTO))


class _Finder:
    """Finds the modules of transformers as they are found anyway, and prepares them once they are loaded."""

    def __init__(self, register: Callable[[], object]) -> None:
        self.register = register

    def find_spec(self, name: str, path: Iterable[str] | None, target: object = None) -> Any:
        """The module's own spec, if it is one of `_MODULES`."""
        if name not in _MODULES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, None if path is None else list(path))
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _prepare(name, module, self.register)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install(home: str) -> None:
    """Let transformers find ours.

    Args:
        home: The module of ours that registers all of it.
    """

    def register() -> None:
        importlib.import_module(home)

    sys.meta_path.insert(0, _Finder(register))
    for name in _MODULES:
        if name in sys.modules:
            _prepare(name, sys.modules[name], register)
