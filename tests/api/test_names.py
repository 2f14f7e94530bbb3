import ast
from pathlib import Path

from controller.api.names import GROUP

CODE = Path(__file__).parents[2] / "controller"


def test_the_group_is_spelled_in_one_place() -> None:
    spelled = {path.relative_to(CODE).as_posix() for path in CODE.rglob("*.py") if GROUP in _values(path)}
    assert spelled == {"api/names.py"}


def _values(path: Path) -> str:
    """The text of a module that is no documentation."""
    tree = ast.parse(path.read_text())
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documentation)
    return "\n".join(str(node.value) for node in texts)
