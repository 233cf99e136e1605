"""One command on a machine with GPUs: is control in vLLM exact under CUDA graphs and over GPUs, what does it cost?

`python -m tests.gpu.vllm_report` in an environment with `pip install 'neurodial[vllm]'` prints a report. Nothing of it
has been run by the authors: they had no GPU.
"""

import json
import subprocess
import sys

import torch


def told(module: str, *arguments: str) -> str:
    """What a proof or a measurement prints, or why it failed."""
    command = [sys.executable, "-m", f"tests.service.vllm.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {done.stderr.strip()[-2000:]}"
    return done.stdout[done.stdout.index("{") :].strip()


def proof(*arguments: str) -> str:
    """The figures of a proof in one line."""
    said = told("prove", "llama", "--count", "100", *arguments)
    if said.startswith("failed"):
        return said
    found = json.loads(said)
    shown = ("finished", "distinct", "near_ties", "preempted", "cached", "compiled_while_serving")
    return f"{len(found['wrong'])} wrong; " + ", ".join(f"{name} {found[name]}" for name in shown)


def main() -> None:
    """Prints the report."""
    gpus = torch.cuda.device_count()
    print(f"{gpus} × {torch.cuda.get_device_name()}" if gpus else "there is no GPU here: nothing to report")
    if not gpus:
        sys.exit(2)
    print("eager:           ", proof())
    print("CUDA graphs:     ", proof("--compiled"))
    if gpus > 1:
        print("tensor parallel 2:", proof("--compiled", "--tensor-parallel", "2"))
    for count in ("32", "200"):
        for size in ("1", "2")[: min(gpus, 2)]:
            arguments = ("--count", count, "--compiled", "--dtype", "bfloat16", "--tensor-parallel", size)
            print(f"{count} requests, tensor parallel {size}:\n{told('measure', *arguments)}")


if __name__ == "__main__":
    main()
