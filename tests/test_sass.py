"""What a kernel executes for an element, told from the machine code for an H200 (sm_90), made without one.

The loop that reads 16 bytes at a time is the whole cost of a large tensor. It is found in the disassembly, and its
instructions are counted, those of branches that are seldom taken too. `pytest -s` prints the figures of all.
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
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:\{ )?(?:@!?U?P\d+\s+)?([A-Z][\w.]*)(.*?);")
_JUMP = re.compile(r"\.(L_x_\d+)\)")


def loop_of(sass):
    """Return the instructions of the innermost loop that reads 16 bytes at a time, as (name, operands)."""
    lines, labels, loops = [], {}, []
    for line in sass.splitlines():
        label, instruction = _LABEL.match(line), _INSTRUCTION.match(line)
        if label:
            labels[label[1]] = len(lines)
        elif instruction:
            lines.append(instruction.groups())
            jump = instruction[1] == "BRA" and _JUMP.search(instruction[2])
            if jump and jump[1] in labels:
                loops.append(lines[labels[jump[1]] :])
    wide = [loop for loop in loops if any(name.startswith("LDG.E.128") for name, _ in loop)]
    return min(wide, key=len)


class Facts:
    """What a kernel takes: instructions of an element, registers and bytes of shared memory of a block."""

    def __init__(self, case, sass, log):
        self.registers = int(re.search(r"Used (\d+) registers", log)[1])
        self.shared = int(re.search(r"(\d+) bytes smem", log)[1])
        self.loop = [name for name, _ in loop_of(sass)]
        name = KERNELS[case][1] or "uint8"
        self.an_element = len(self.loop) / (128 // FORMATS[name].bits)

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
    "tally float32": (22.8, 3),
    "tally bfloat16": (21.2, 3),
    "tally float16": (28.4, 3),
    "tally float64": (77.0, 2),
    "tally int32": (59.3, 2),
    "between float32": (272.0, 2),
    "codes": (5.2, 3),
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
    # Counting needs no answer and merges the lanes of a warp that meet.
    bits = FORMATS[KERNELS[case][1] or "uint8"].bits
    assert facts.count("ATOMS.POPC.INC") == 128 // bits == facts.count("ATOMS")
