"""PTX of nvcc as C++ for the project's CPU emulator: the program that the GPU's driver gets, run without a GPU.

    python tests/plugins/ptx/translate.py kernels.ptx > kernels.cpp

Every kernel becomes a function with its own mangled name that takes its arguments by value. Linked with kernels.cu as
the emulator compiles it, these functions take the place of those that g++ made of the templates, whose symbols are
weak. What an instruction does is in ptx_run.h; an instruction that is not known ends the translation.

What it leaves out: the order of memory between threads that no barrier separates, and what ptxas makes of the PTX.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["translate"]

# C++ types of the types of PTX; .bNN are bits without a meaning.
_TYPES = {
    "pred": "bool",
    "f32": "float",
    **{f"{kind}{bits}": f"uint{bits}_t" for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "hi": ">"}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/", "rem": "%", "and": "&", "or": "|", "xor": "^"}
# Conversions to and from 16-bit numbers, as the emulator has them.
_CONVERSIONS = {
    ("f16", "f32"): "__float2half_rn({}).v",
    ("f32", "f16"): "__half2float(__half{{{}}})",
    ("bf16", "f32"): "__float2bfloat16_rn({}).v",
    ("f32", "bf16"): "__bfloat162float(__nv_bfloat16{{{}}})",
}
_SPECIAL = {"tid": "threadIdx", "ctaid": "blockIdx", "nctaid": "gridDim", "ntid": "blockDim"}


def translate(ptx: str) -> str:
    """C++ of all kernels.

    Raises:
        ValueError: an instruction or operand that is not known.
    """
    shared = re.search(r"\.extern \.shared[^;]*?(\w+)\[\];", ptx)
    entries = re.findall(r"\.visible \.entry (\w+)\(\n(.*?)\n\)\n(.*?)\n?\{\n(.*?)\n\}\n", ptx, re.DOTALL)
    if not entries or shared is None:
        raise ValueError("expected the PTX of kernels that use shared memory")
    kernels = [_Kernel(name, parameters, shared[1]).translate(body) for name, parameters, _, body in entries]
    return "\n".join(['#include "ptx_run.h"', *kernels])


def _split(text: str) -> list[str]:
    """Operands, at the commas outside brackets."""
    return [part.strip() for part in re.split(r",(?![^\[{]*[\]}])", text) if part.strip()]


def _identifier(name: str) -> str:
    """A register or label as a name of C++."""
    return re.sub(r"\W", "_", name)


def _unsigned(kind: str) -> str:
    """Additions and products of signed numbers wrap, which C++ leaves open."""
    return f"u{kind[1:]}" if kind.startswith("s") else kind


class _Kernel:
    """One kernel: its declarations, and its instructions one after the other."""

    def __init__(self, name: str, parameters: str, shared: str) -> None:
        self.name, self.shared = name, shared
        declared = re.fullmatch(r"\s*\.param \.align (\d+) \.b8 (\w+)\[(\d+)\]\s*", parameters)
        if declared is None:
            raise ValueError(f"{name} has the parameters {parameters}; expected one structure")
        self.align, self.parameter, self.bytes = int(declared[1]), declared[2], int(declared[3])
        self.declarations: list[str] = []

    def translate(self, body: str) -> str:
        lines = []
        for line in body.split("\n"):
            text = re.sub(r"//.*", "", line).strip()
            if label := re.fullmatch(r"(\$L__\w+):", text):
                lines.append(f"{_identifier(label[1])}:;")
            elif text.startswith("{"):  # inline assembly: instructions with registers of their own
                inside = text[1 : text.rindex("}")]
                inner = [self._statement(part, inline=True) for part in inside.split(";")]
                lines.append(f"{{ {' '.join(inner)} }}")
            elif text and text != "}":
                lines.append(self._statement(text))
        function = [
            f"struct Arguments_{self.name} {{ alignas({self.align}) char bytes[{self.bytes}]; }};",
            f'extern "C" void {self.name}(Arguments_{self.name} arguments)\n{{',
            f'static bool const noted = note("{self.name}");',
            "(void)noted;",
            "char const* const parameters = arguments.bytes;",
            *self.declarations,
            *lines,
            "}",
        ]
        return "\n".join(function)

    def _statement(self, text: str, inline: bool = False) -> str:
        text = text.strip().rstrip(";").strip()
        if registers := re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text):
            declared = " ".join(self._registers(registers[1], name) for name in _split(registers[2]))
            if inline:
                return declared
            self.declarations.append(declared)
            return ""
        if local := re.fullmatch(r"\.local\s+\.align\s+\d+\s+\.b8\s+(\w+)\[(\d+)\]", text):
            self.declarations.append(f"alignas(16) char local[{local[2]}]; memset(local, 0xff, sizeof local);")
            return ""
        if not text or text.startswith((".pragma", ".loc")):
            return ""
        condition = ""
        if guarded := re.match(r"@(!?)(%?p\d*)\s+(.*)", text, re.DOTALL):
            condition, text = f"if ({guarded[1]}{_identifier(guarded[2])}) ", guarded[3]
        operation, *rest = text.split(None, 1)
        return condition + self._instruction(operation.split("."), _split(rest[0]) if rest else [], text)

    def _registers(self, kind: str, name: str) -> str:
        family = re.fullmatch(r"(%\w+)<(\d+)>", name)
        names = [f"{_identifier(family[1])}{i}" for i in range(int(family[2]))] if family else [_identifier(name)]
        return f"{_TYPES[kind]} {', '.join(f'{each}{{}}' for each in names)};"

    def _instruction(self, words: list[str], operands: list[str], text: str) -> str:
        """The statement of one instruction, without its condition."""
        operation, modifiers, kind = words[0], words[1:-1], words[-1]
        value = self._value
        if operation == "bra":
            return f"goto {_identifier(operands[0])};"
        if operation == "ret":
            return "return;"
        if operation in ("bar", "barrier"):
            return 'emulation::syncThreads("ptx", 0);'
        if words[:2] == ["cp", "async"]:
            if words[2] == "wait_all":
                return 'emulation::finishCopies("ptx", 0);'
            return f"copyAsync({self._address(operands[0], 'shared', int(operands[2]))}, " + (
                f"{self._address(operands[1], 'global', int(operands[2]))}, {operands[2]});"
            )
        if operation in ("ld", "st"):
            return self._memory(operation, modifiers, kind, operands)
        if operation == "shfl":
            target, _, flag = operands[0].partition("|")
            given = ", ".join(value(operand, "u32") for operand in operands[1:])
            mode = {"up": "Shuffle::kUp", "bfly": "Shuffle::kXor"}[modifiers[1]]
            into = _identifier(flag) if flag else "ignored"
            return f"{{ bool ignored; (void)ignored; set({_identifier(target)}, shuffle({mode}, {given}, {into})); }}"
        if operation == "mov" and operands[0].startswith("{"):
            low, high = (_identifier(name) for name in _split(operands[0][1:-1]))
            return f"split({low}, {high}, {value(operands[1], kind)});"
        result: str | None = None
        if operation == "mov" and operands[1].startswith("{"):
            half = f"b{int(kind[1:]) // 2}"
            parts = ", ".join(value(part, half) for part in _split(operands[1][1:-1]))
            result = f"join<{_TYPES[kind]}>({parts})"
        elif operation in ("mov", "cvta"):
            result = value(operands[1], kind)
        elif operation == "cvt":
            wanted = words[-2]
            if (wanted, kind) in _CONVERSIONS:
                result = _CONVERSIONS[wanted, kind].format(value(operands[1], "f32" if kind == "f32" else "b16"))
            elif "f" not in wanted + kind:
                result = f"({_TYPES[wanted]})({value(operands[1], kind)})"
        elif operation == "setp" and len(modifiers) == 1:
            result = f"({value(operands[1], kind)} {_COMPARISONS[modifiers[0]]} {value(operands[2], kind)})"
        elif operation == "selp":
            result = f"({_identifier(operands[3])} ? {value(operands[1], kind)} : {value(operands[2], kind)})"
        elif operation in ("fma", "mad") and kind == "f32":
            result = f"fmaf({', '.join(value(operand, kind) for operand in operands[1:])})"
        elif words in (["ex2", "approx", "ftz", "f32"], ["rcp", "approx", "ftz", "f32"]):
            result = f"{operation}({value(operands[1], kind)})"
        elif operation == "abs" and kind == "f32":
            result = f"fabsf({value(operands[1], kind)})"
        elif operation in ("min", "max"):
            function = f"f{operation}f" if kind == "f32" else f"std::{operation}<{_TYPES[kind]}>"
            result = f"{function}({value(operands[1], kind)}, {value(operands[2], kind)})"
        elif operation in ("shl", "shr"):
            result = f"{operation}<{_TYPES[kind]}>({value(operands[1], kind)}, {value(operands[2], 'u32')})"
        elif operation == "bfi":
            result = f"bfi({', '.join(value(operand, 'u32') for operand in operands[1:])})"
        elif operation == "not":
            result = f"{'!' if kind == 'pred' else '~'}{value(operands[1], kind)}"
        elif operation == "neg" and kind != "f32":
            result = f"0 - {value(operands[1], _unsigned(kind))}"
        elif operation == "mul" and modifiers == ["wide"]:
            wide = _TYPES[f"{kind[0]}{2 * int(kind[1:])}"]
            result = f"({wide})({value(operands[1], kind)}) * ({wide})({value(operands[2], kind)})"
        elif operation == "mad" and modifiers == ["lo"]:
            a, b, c = (value(operand, _unsigned(kind)) for operand in operands[1:])
            result = f"{a} * {b} + {c}"
        elif operation in _ARITHMETIC and (kind == "f32" or modifiers in ([], ["lo"])):
            exact = kind if operation in ("div", "rem") else _unsigned(kind)
            result = f"{value(operands[1], exact)} {_ARITHMETIC[operation]} {value(operands[2], exact)}"
        if result is None or (kind == "f32" and set(modifiers) - {"rn", "approx", "ftz", *_COMPARISONS, "f16", "bf16"}):
            raise ValueError(f"{self.name}: the instruction {text} is not known")
        return f"set({_identifier(operands[0])}, {self._cast(operation, words, result)});"

    def _cast(self, operation: str, words: list[str], result: str) -> str:
        """Of results that C++ would widen: 16-bit integers."""
        kind = words[-1]
        if kind in ("f32", "pred") or operation in ("setp", "cvt", "mov", "cvta") or "wide" in words:
            return result
        return f"({_TYPES[_unsigned(kind) if operation not in ('div', 'rem', 'min', 'max') else kind]})({result})"

    def _memory(self, operation: str, modifiers: list[str], kind: str, operands: list[str]) -> str:
        space = modifiers[0]
        width = next((int(word[1:]) for word in modifiers if word in ("v2", "v4")), 1)
        size = int(kind[1:]) // 8
        place, registers = (operands[1], operands[0]) if operation == "ld" else (operands[0], operands[1])
        names = _split(registers[1:-1]) if width > 1 else [registers]
        address = self._address(place, space, size * width)
        if operation == "ld":
            moves = [f"set({_identifier(n)}, load<{_TYPES[kind]}>(at + {i * size}));" for i, n in enumerate(names)]
            return f"{{ char const* const at = {address}; {' '.join(moves)} }}"
        moves = [f"store<{_TYPES[kind]}>(at + {i * size}, {self._value(n, kind)});" for i, n in enumerate(names)]
        return f"{{ char* const at = (char*){address}; {' '.join(moves)} }}"

    def _address(self, text: str, space: str, size: int) -> str:
        match = re.fullmatch(r"\[([^+\s\]]+)(?:\+(-?\d+))?\]", text)
        if match is None:
            raise ValueError(f"{self.name}: the address {text} is not known")
        base, offset = match[1], int(match[2] or 0)
        if space == "param":
            pointer = "parameters" if base == self.parameter else f"(char*){self._value(base, 'u64')}"
            return f"({pointer} + ({offset}))"
        if space == "shared":
            start = "0u" if base == self.shared else self._value(base, "u32")
            return f"sharedAt({start} + ({offset}), {size})"
        return f"globalAt({self._value(base, 'u64')} + ({offset}), {size})"

    def _value(self, text: str, kind: str) -> str:
        """An operand, as a value of a type."""
        of = _TYPES[kind]
        if text == self.parameter:
            return f"({of})(uint64_t)parameters"
        if text == self.shared:
            return f"({of})0"
        if text.startswith("__local_depot"):
            return f"({of})(uint64_t)local"
        if special := re.fullmatch(r"%(tid|ctaid|nctaid|ntid)\.([xyz])", text):
            owner = "block->current->" if special[1] == "tid" else "block->"
            return f"({of})emulation::{owner}{_SPECIAL[special[1]]}.{special[2]}"
        if re.fullmatch(r"%\w+|[a-z]\w*", text):
            return f"as<{of}>({_identifier(text)})"
        if bits := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})", text):
            return f"as<float>(0x{bits[1]}u)"
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", text):
            return f"({of})({text}LL)"
        raise ValueError(f"{self.name}: the operand {text} is not known")


if __name__ == "__main__":
    sys.stdout.write(translate(Path(sys.argv[1]).read_text()))
