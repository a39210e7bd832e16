"""Finds the operators of a TorchScript module, and the libraries of those that are not torch's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from isthmus.bundle.manifest import OpLibrary
from isthmus.runtime.op_libraries import package_of, registers

CORE_NAMESPACES = frozenset(
    {"aten", "prim", "prims", "quantized", "onednn", "mkldnn", "mkldnn_prepacked", "xnnpack",
     "prepacked", "sparse", "static_runtime", "cuda", "inductor", "profiler", "_quantized", "c10"}
)  # fmt: skip
"""The namespaces whose operators come with LibTorch itself."""


class ModuleGraphs:
    """The inlined graph of every method, and of the submodules' `__setstate__`."""

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        graphs = [module._c._get_method(name).inlined_graph for name in module._c._method_names()]
        for path, submodule in module.named_modules():
            scripted = path and isinstance(submodule, torch.jit.ScriptModule)
            if scripted and "__setstate__" in submodule._c._method_names():
                graphs.append(submodule._c._get_method("__setstate__").inlined_graph)
        # A node lives as long as its graph.
        self._graphs = graphs
        self.nodes = [node for graph in graphs for node in nodes(graph)]


def nodes(graph: Any) -> list[Any]:
    """Returns every node of a graph and of the blocks inside it, in order."""
    result = []
    for node in graph.nodes():
        result.append(node)
        for block in node.blocks():
            result += nodes(block)
    return result


def count_operators(graphs: ModuleGraphs) -> dict[str, int]:
    """Returns how many places call each operator; language constructs are left out."""
    counts = Counter(node.kind() for node in graphs.nodes)
    return dict(sorted((k, n) for k, n in counts.items() if not k.startswith("prim::")))


def python_operators(graphs: ModuleGraphs) -> tuple[str, ...]:
    """Returns the calls into Python, which no C++ process can make."""
    calls = {
        str(node.pyname()) if hasattr(node, "pyname") else node.kind()
        for node in graphs.nodes
        if node.kind() == "prim::PythonOp"
    }
    return tuple(sorted(calls))


def custom_operators(operators: Iterable[str]) -> tuple[str, ...]:
    """Returns the operators outside LibTorch's own namespaces."""
    return tuple(name for name in operators if name.split("::", 1)[0] not in CORE_NAMESPACES)


def python_only(operators: Iterable[str]) -> tuple[str, ...]:
    """Returns the custom operators whose schema or implementation is registered from Python."""
    import torch.library  # torch itself looks into these registries

    defined = {name.split("(", 1)[0].split(".", 1)[0] for name in torch.library._defs}
    implemented = {
        "::".join(key.split("/")[:2]).split(".", 1)[0]
        for key in torch.library._impls
        # Autograd and fake kernels in Python do not keep an operator from running in C++.
        if key.rsplit("/", 1)[-1] in ("CPU", "CUDA", "CompositeExplicitAutograd",
                                      "CompositeImplicitAutograd", "")
    }  # fmt: skip
    return tuple(name for name in custom_operators(operators) if name in defined | implemented)


def find_libraries(
    operators: Iterable[str], given: Sequence[str | Path] = ()
) -> tuple[OpLibrary, ...]:
    """Returns the library that registers each custom namespace, with the package that it is of.

    Its name is empty when no library is found.

    Args:
        operators: Names such as "my_ops::twice".
        given: The libraries that the user named, which are looked at first.
    """
    candidates = [Path(path) for path in given]
    candidates += [Path(path) for path in sorted(torch.ops.loaded_libraries)]
    candidates += [path for path in _mapped_libraries() if path not in candidates]
    libraries = []
    for namespace in sorted({name.split("::", 1)[0] for name in custom_operators(operators)}):
        owner = next((path for path in candidates if registers(path, namespace)), None)
        package, version = package_of(owner) if owner else ("", "")
        libraries.append(OpLibrary(namespace, owner.name if owner else "", package, version))
    return tuple(libraries)


def _mapped_libraries() -> list[Path]:
    """Returns the shared libraries mapped into this process, without torch's own."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    own = Path(torch.__file__).parent / "lib"
    paths = {
        Path(line.split(None, 5)[5].strip())
        for line in maps.read_text().splitlines()
        if ".so" in line and len(line.split(None, 5)) == 6
    }
    system = ("/lib/", "/usr/lib/", "/lib64/")
    return sorted(p for p in paths if p.parent != own and not str(p).startswith(system))
