"""What a kernel executes for an element, told from the machine code for an H200 (sm_90), made without one.

The loop that reads 16 bytes at a time is the whole cost of a large tensor. It is found in the disassembly, and its
instructions are counted. `pytest -s` prints the figures of all.
"""

from __future__ import annotations

import re
import subprocess

import pytest
from gpu_code import KERNELS, assembled, ptx_of

from fasthist.dtypes import FORMATS

TARGET = (9, 0)

THREADS, REGISTERS, SHARED = 2048, 65536, 228 << 10
"""What a processor of an H200 has."""

_LABEL = re.compile(r"^\.(L_x_\d+):")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:\{ )?(@!?U?P\d+)?\s*([A-Z][\w.]*)(.*?);")
_JUMP = re.compile(r"\.(L_x_\d+)\)")


def loop_of(sass):
    """Return the innermost loop that reads 16 bytes at a time and counts.

    Each instruction is its name, and the places in the loop that may come after it.
    """
    lines, labels, loops = [], {}, []
    for line in sass.splitlines():
        label, instruction = _LABEL.match(line), _INSTRUCTION.match(line)
        if label:
            labels[label[1]] = len(lines)
        elif instruction:
            guard, name, operands = instruction.groups()
            jump = _JUMP.search(operands) if name == "BRA" else None
            always = jump is not None and guard is None and " P" not in operands
            lines.append((name, [jump[1]] if jump else [], always))
            if jump and jump[1] in labels:
                loops.append((labels[jump[1]], len(lines)))
    wanted = {"LDG.E.128.CONSTANT", "ATOMS.POPC.INC.32"}
    inside = [loop for loop in loops if wanted <= {name for name, *_ in lines[slice(*loop)]}]
    begin, end = min(inside, key=lambda loop: loop[1] - loop[0])
    return [
        (name, [i + 1] * (not always) + [labels[goal] - begin for goal in goals])
        for i, (name, goals, always) in enumerate(lines[begin:end])
    ]


def shortest(loop):
    """Return the names of the instructions on the shortest way through a loop, from its first to its last."""
    ways = {0: [loop[0][0]]}
    for i in range(len(loop) - 1):
        for goal in loop[i][1] if i in ways else ():
            if i < goal < len(loop) and (goal not in ways or len(ways[i]) + 1 < len(ways[goal])):
                ways[goal] = [*ways[i], loop[goal][0]]
    return ways[len(loop) - 1]


class Facts:
    """What a kernel takes: instructions of an element, registers and bytes of shared memory of a block."""

    def __init__(self, case, sass, log):
        self.registers = int(re.search(r"Used (\d+) registers", log)[1])
        self.shared = int(re.search(r"(\d+) bytes smem", log)[1])
        loop = loop_of(sass)
        self.loop = [name for name, _ in loop]
        which, name, _ = KERNELS[case]
        # Of what has one way for all numbers that are finite, what is on it; of the others, all.
        self.one_way = which == "codes" or case == "tally float32"
        counted = shortest(loop) if self.one_way else self.loop
        self.an_element = len(counted) / (128 // FORMATS[name or "uint8"].bits)
        self.increments = sum(name.startswith("ATOMS") for name in counted)

    @property
    def blocks(self):
        """How many blocks of 512 threads a processor holds; registers go by 8, shared memory by 1 KiB beside 1 KiB."""
        taken = -(-self.registers // 8) * 8 * 512
        room = (-(-self.shared // 1024) + 1) * 1024
        return min(THREADS // 512, REGISTERS // taken, SHARED // room)

    def count(self, start):
        """Return how many instructions of the loop begin so."""
        return sum(name.startswith(start) for name in self.loop)

    def __str__(self):
        return (
            f"{self.an_element:5.1f} instructions an element, {self.registers:3} registers, "
            f"{self.shared:6} bytes, {self.blocks} blocks"
        )


@pytest.fixture
def facts_of(need, monkeypatch, tmp_path):
    """Return the function that finds what one of `KERNELS` takes."""
    tool = need("cuda.pathfinder").find_nvidia_binary_utility("nvdisasm")
    if tool is None:
        need("nvdisasm")  # no module of that name: skips, or fails under --require=nvdisasm

    def facts(case):
        cubin, log = assembled(ptx_of(case, TARGET, need, monkeypatch), TARGET, need)
        path = tmp_path / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([tool, "-c", path], capture_output=True, text=True, check=True)
        assert not re.search(r"\b(STL|LDL)\b", done.stdout)  # nothing in local memory
        return Facts(case, done.stdout, log)

    return facts


MOST = {
    "tally float32": (16.3, 3),
    "tally bfloat16": (18.4, 3),
    "tally float16": (25.9, 3),
    "tally float64": (75.0, 3),
    "tally int32": (58.3, 3),
    "between float32": (245.0, 2),
    "codes": (5.5, 3),
}
"""Most instructions of an element, and fewest blocks that a processor holds."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", MOST)
def test_what_a_kernel_executes_for_an_element(case, facts_of):
    facts = facts_of(case)
    print(f"{case:16}", facts)  # noqa: T201
    most, blocks = MOST[case]
    assert facts.an_element <= most
    assert facts.blocks >= blocks
    assert facts.count("LDG.E.128") == 1
    # Counting needs no answer, and merges the lanes of a warp that meet.
    bits = FORMATS[KERNELS[case][1] or "uint8"].bits
    assert facts.count("ATOMS.POPC.INC") == 128 // bits == facts.count("ATOMS")
    if facts.one_way:
        assert facts.increments == 128 // bits
        assert "LDS" not in facts.loop[facts.loop.index("ATOMS.POPC.INC.32") :]
