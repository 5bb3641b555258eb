"""Training and scoring speed, beside a straightforward implementation of the same steps.

python benchmarks/step.py

Measured is each precision that the device has units for. The baseline feeds PIL transforms through
a DataLoader without workers, makes a fresh iterator for each unlabelled batch, and runs the same
networks and losses in NCHW, fp32, eager, with one optimiser and EMA call for each parameter. It has
a process of its own, with the defaults of the system for memory; both take turns, and medians
count. The images are random bytes: their content costs nothing.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from benchmarks.baseline import Baseline, baseline_in_its_own_process
from benchmarks.ours import AUXILIARIES, Ours
from benchmarks.workload import Workload, workload
from tod.analysis.tables import markdown
from tod.config import cli
from tod.engine.device import allow_tf32, bf16_unit, keep_freed_memory, precisions, select_device


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; the sizes that are not given depend on the device."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--width", type=cli.positive, default=64, help="of the ResNet-18 (default: 64)")
    add("--batch-size", type=cli.positive, default=128, help="default: 128")
    add("--labeled", type=cli.positive, help="images of an epoch (128 on a CPU, else 5000)")
    add("--scored", type=cli.positive, help="images scored (256 on a CPU, else 10000)")
    add("--repeats", type=cli.positive, default=3, help="turns of each (default: 3)")
    return parser.parse_args(argv)


def flops(work: Callable[[], object]) -> int:
    """The operations of the products and convolutions in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints one table."""
    arguments = parse_arguments(argv)
    device = select_device(arguments.device)
    on_cpu = device.type == "cpu"
    num_labeled = arguments.labeled or (128 if on_cpu else 5_000)
    num_scored = arguments.scored or (256 if on_cpu else 10_000)
    torch.backends.cudnn.benchmark = True
    if on_cpu:
        keep_freed_memory()
    dtypes = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
    peaks = {}
    for precision in precisions(device):
        if precision == "bf16" and bf16_unit(device) is None:
            continue  # it would be computed, in many times the time
        allow_tf32(precision == "tf32")
        peaks[precision] = machine.peak_flops(device, dtypes[precision], 3 * arguments.repeats)

    print(machine.describe(device))
    print(
        f"ResNet-18 of width {arguments.width}, 32×32, batches of {arguments.batch_size}; "
        f"medians of {arguments.repeats} turns; measured peak: "
        + ", ".join(f"{name} {peak / 1e12:.3g} TFLOP/s" for name, peak in peaks.items())
    )
    header = ["", "baseline: images/s (share of fp32 peak)"]
    header += [f"{name}: images/s (ratio; share of peak)" for name in peaks]
    print(markdown([header]), end="", flush=True)
    sizes = (arguments.width, arguments.batch_size)
    train = workload(*sizes, num_labeled + num_scored, num_labeled, device)
    for auxiliary in AUXILIARIES:
        work = train._replace(auxiliary=auxiliary)
        cells = row(f"train, {auxiliary}", "train_epoch", work, peaks, arguments.repeats)
        machine.print_line(cells)
    score = workload(*sizes, num_scored, 1, device)
    machine.print_line(row("score, TOD", "score", score, peaks, arguments.repeats))


def row(name: str, method: str, work: Workload, peaks: dict[str, float], repeats: int) -> list[str]:
    """Measures one line of the table: a method of the baseline and of `Ours`, by precision."""
    # Scores are computed in fp32 whatever trained the networks, but with tf32 in tf32.
    scores = method == "score"
    works = {p: getattr(Ours(work, p), method) for p in peaks if not (scores and p == "bf16")}
    num_images = len(work.labels) if scores else work.num_labeled
    operations = flops(getattr(Baseline(work), method))
    with baseline_in_its_own_process(method, work) as baseline:
        times = machine.interleaved({"baseline": baseline, **works}, repeats, work.device)
    share = operations / times["baseline"] / peaks["fp32"]
    cells = [name, f"{num_images / times['baseline']:,.1f} ({share:.0%})"]
    for precision, peak in peaks.items():
        if precision in times:
            ratio = times["baseline"] / times[precision]
            share = operations / times[precision] / peak
            cells.append(f"{num_images / times[precision]:,.1f} ({ratio:.2f}; {share:.0%})")
        else:
            cells.append("as fp32")
    return cells


if __name__ == "__main__":
    with cli.exit_status():
        main()
