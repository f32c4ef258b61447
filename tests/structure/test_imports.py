"""Imports point downward only, and some rooms know nothing of some packages."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the roof down. A room may import itself and what its entry names, nothing else of ours.
COMMON = {"ids", "errors", "config", "types"}
MAY_IMPORT: dict[str, set[str]] = {
    "ids": set(),
    "errors": set(),
    "config": {"errors"},
    "types": {"ids", "sampling.params"},
    "cascade": set(),
    "threads": set(),
    "fair_stack": set(),
    "request": {"ids", "types", "cache", "sampling.params", "sampling.constraint"},
    "memory": {"errors", "config"},
    "device": COMMON,
    "cache": COMMON,
    "tiers": COMMON | {"cache"},
    "scheduler": COMMON
    | {
        "cascade",
        "fair_stack",
        "request",
        "cache",
        "tiers",
        "sampling.params",
        "sampling.constraint",
    },
    "sampling": COMMON | {"device", "radixserve_kernels"},
    "attention": COMMON | {"cascade", "device", "radixserve_kernels"},
    "model": COMMON
    | {"device", "attention", "demo.WEIGHTS", "sampling.params", "radixserve_kernels"},
    "runner": COMMON
    | {
        "cascade",
        "device",
        "radixserve_kernels",
        "request",
        "memory",
        "cache.prefix_cache",
        "scheduler.plan",
        "tiers.moves",
        "model",
        "attention",
        "sampling",
    },
    "text": COMMON | {"sampling.params", "sampling.grammar"},
    "demo": COMMON | {"threads"},
    "engine": COMMON
    | {
        "threads",
        "request",
        "memory",
        "cache",
        "tiers",
        "scheduler",
        "runner",
        "model",
        "text",
        "sampling",
    },
    "llm": COMMON | {"engine", "text", "sampling.params"},
    "radixserve_kernels": set(),
    "radixserve_frontend": COMMON
    | {
        "engine.async_engine",
        "engine.interface",
        "fair_stack",
        "text",
        "demo",
        "sampling.params",
        "sampling.grammar",
        "__version__",
    },
}

# Third-party packages that only these rooms (or modules) may import.
ONLY_IN = {
    "torch": {"device", "runner", "attention", "model", "sampling", "radixserve_kernels", "demo"},
    "triton": {"radixserve_kernels"},
    "numba": {"radixserve_kernels"},
    "llvmlite": {"radixserve_kernels.cpu"},
    "llguidance": {"sampling.grammar_compiler"},
    "zmq": {"engine.process", "engine.client"},
    "msgspec": {"engine.process", "engine.client", "engine.messages"},
    "starlette": {"radixserve_frontend"},
    "uvicorn": {"radixserve_frontend"},
    "sse_starlette": {"radixserve_frontend"},
    "opentelemetry": {"radixserve_frontend.tracing"},
    "prometheus_client": {"radixserve_frontend"},
}


def modules() -> list[tuple[str, Path]]:
    """Every module of ours as (dotted name below its floor's package, path)."""
    found = []
    for package in (
        ROOT / "radixserve",
        ROOT / "kernels" / "radixserve_kernels",
        ROOT / "frontend" / "radixserve_frontend",
    ):
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            if package.name != "radixserve":
                name = package.name if name == "__init__" else f"{package.name}.{name}"
            found.append((name, path))
    return found


def imports(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it; ``from a import b`` counts as ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction; spell them out"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
def test_imports_point_downward(name: str, path: Path) -> None:
    if name == "__init__":
        return
    room = name.split(".", maxsplit=1)[0]
    assert room in MAY_IMPORT, f"a new room, {room}: say in MAY_IMPORT what it may import"
    for imported in imports(path):
        top = imported.split(".")[0]
        if top == "radixserve":
            target = imported.removeprefix("radixserve.")
        elif top in ("radixserve_kernels", "radixserve_frontend"):
            target = imported
        else:
            owners = ONLY_IN.get(top)
            if owners is not None:
                assert any(is_below(name, owner) for owner in owners), f"{name} imports {imported}"
            continue
        allowed = MAY_IMPORT[room] | {room}
        assert any(is_below(target, one) for one in allowed), f"{name} imports {imported}"


def test_every_room_named_here_exists() -> None:
    rooms = {name.split(".")[0] for name, _ in modules()}
    assert set(MAY_IMPORT) <= rooms
    assert rooms - {"__init__"} <= set(MAY_IMPORT)
