"""The grammar of an activation: what its source may say, so that it means the same on every target."""

import ast
import inspect
import textwrap

from numbadense import scalar_math

WORDS = {word.__name__ for word in scalar_math.WORDS}
CALLS = WORDS | {"abs", "min", "max"}
STATEMENTS = (ast.Assign, ast.AugAssign, ast.If, ast.Return)
EXPRESSIONS = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.BoolOp, ast.Call, ast.Name, ast.Constant, ast.Tuple)
OPERATORS = (ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context)
ROW_STATEMENTS = (*STATEMENTS, ast.For)
ROW_EXPRESSIONS = (*EXPRESSIONS, ast.Subscript, ast.Attribute)


def violations(function, rowwise=False):
    """Return what a scalar function's source says outside the language, one sentence each."""
    source = textwrap.dedent(inspect.getsource(function))
    definition = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return check(definition, rowwise)


def check(definition, rowwise=False):
    """Return the violations of one parsed function definition."""
    body = definition.body[1:] if ast.get_docstring(definition) is not None else definition.body
    allowed = (*ROW_STATEMENTS, *ROW_EXPRESSIONS) if rowwise else (*STATEMENTS, *EXPRESSIONS)
    reader = _Reader({argument.arg for argument in definition.args.args}, (*allowed, *OPERATORS), rowwise)
    for statement in body:
        reader.visit(statement)
    return reader.found


class _Reader(ast.NodeVisitor):
    def __init__(self, local, allowed, rowwise):
        self.local, self.allowed, self.rowwise, self.found = local, allowed, rowwise, []

    def report(self, node, text):
        self.found.append(f"line {node.lineno}: {text}")

    def visit(self, node):
        if not isinstance(node, self.allowed):
            self.report(node, f"{type(node).__name__} is not in the language")
            return
        super().visit(node)

    def visit_Assign(self, node):
        self.visit(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.local.add(target.id)
            else:
                self.visit(target)

    def visit_For(self, node):
        if not (isinstance(node.iter, ast.Call) and ast.unparse(node.iter.func) == "range"):
            self.report(node, "a loop runs over a range")
        self.local.add(node.target.id)
        for statement in node.body:
            self.visit(statement)

    def visit_Call(self, node):
        called = ast.unparse(node.func)
        if called == "T":
            if len(node.args) != 1 or not _is_number(node.args[0]):
                self.report(node, "T casts a literal or a constant")
            return
        if called == "type":
            return
        if called not in CALLS:
            self.report(node, f"the call of {called} is not in the language")
        for argument in node.args:
            self.visit(argument)

    def visit_Constant(self, node):
        if not self.rowwise:
            self.report(node, f"the literal {node.value!r} is not cast with T")

    def visit_Name(self, node):
        if node.id not in self.local:
            self.report(node, f"{node.id} is neither local nor cast with T")

    def visit_Subscript(self, node):
        self.visit(node.value)

    def visit_Attribute(self, node):
        if node.attr != "size":
            self.report(node, f"the attribute {node.attr} is not in the language")

    def visit_AugAssign(self, node):
        self.visit(node.target)
        self.visit(node.value)


def _is_number(node):
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, (ast.Constant, ast.Name))
