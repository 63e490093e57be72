"""Speaks SMT-LIB 2 on stdin and stdout for the `cvc5` wheel of PyPI, which has the solver but no program.

Used by the proofs only, on a developer's machine. The arguments of the real program are accepted and ignored.
"""

import re
import sys

import cvc5


def commands(stream):
    """Cuts a stream into commands, each one s-expression, as soon as its last parenthesis has come."""
    text, depth, inside = [], 0, ""
    while line := stream.readline():
        for char in line:
            if inside == ";":
                inside = "" if char == "\n" else inside
                continue
            if inside:
                inside = "" if char == inside else inside
            elif char in '"|;':
                inside = char
            else:
                depth += {"(": 1, ")": -1}.get(char, 0)
            if inside != ";" and (depth or text or char == ")"):
                text.append(char)
            if not depth and not inside and text:
                yield "".join(text)
                text = []


class Session:
    """One solver; `(reset)` makes a new one."""

    def __init__(self):
        terms = cvc5.TermManager()
        self.solver = cvc5.Solver(terms)
        self.solver.setOption("incremental", "true")
        self.symbols = cvc5.SymbolManager(terms)
        self.parser = cvc5.InputParser(self.solver, self.symbols)
        self.parser.setIncrementalStringInput(cvc5.InputLanguage.SMT_LIB_2_6, "stdin")

    def run(self, text):
        self.parser.appendIncrementalStringInput(text)
        command = self.parser.nextCommand()
        return "" if command.isNull() else str(command.invoke(self.solver, self.symbols))


def main():
    session = Session()
    for text in commands(sys.stdin):
        if re.fullmatch(r"\(\s*reset\s*\)", text):
            session = Session()
            continue
        if re.fullmatch(r"\(\s*exit\s*\)", text):
            break
        try:
            answer = session.run(text)
        except Exception as error:  # The wheel raises its own types and plain RuntimeError.
            answer = '(error "%s")\n' % str(error).replace('"', "'")
        sys.stdout.write(answer)
        sys.stdout.flush()


main()
