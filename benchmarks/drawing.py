#!/usr/bin/env python3
"""Claim: drawing positions takes at most twice as long as the softmax of the same maps.

Softmax and draw alternate in one process; ratios are medians over rounds. On a GPU times are those
of the device, without the host's for calling, which a captured training step does not have, either.
"""

import argparse
from functools import partial

import torch
from turns import MEBIBYTE, add_device, alternate, alternate_on_gpu, report_ratios

import ats
from ats.memory import keep_freed_memory
from ats.training.arguments import positive_int

DESIGNS = ("systematic", "des-raj")
WANTED = 2.0


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--batch_size", type=positive_int, default=128, help="maps")
    add("--side", type=positive_int, default=180, help="rows and columns of a map")
    add("--n_patches", type=positive_int, default=10, help="positions of a map")
    add("--rounds", type=positive_int, default=50, help="rounds that count")
    add_device(parser, "to draw")
    add("--threads", type=positive_int, default=None, help="of the CPU, all by default")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    # Else the softmax is charged with asking the system for pages, now and then.
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(args.batch_size, args.side**2, generator=generator).to(args.device)
    in_turns = alternate
    if args.device == "cuda":
        filling = torch.ones(256 * MEBIBYTE, dtype=torch.uint8, device="cuda")

        def busy() -> None:
            # For longer than the host needs to call what is measured.
            for _ in range(16):
                filling.neg_()

        in_turns = partial(alternate_on_gpu, before=busy)
    rows = []
    # Spread out, and so sharp that some positions are certain.
    for name, spread in (("flat", 0.1), ("peaked", 5.0)):
        logits = noise * spread
        maps = logits.softmax(1).reshape(-1, args.side, args.side)
        for design in DESIGNS:
            found = in_turns(
                {
                    "softmax": partial(logits.softmax, 1),
                    "draw": partial(ats.sample, maps, args.n_patches, design=design),
                },
                args.rounds,
            )
            rows.append((f"{design}, {name} maps", found["softmax"], found["draw"]))
    broken = report_ratios(("softmax", "draw"), rows, WANTED)
    assert not broken, f"drawing takes more than {WANTED} times the softmax: {', '.join(broken)}"


if __name__ == "__main__":
    main()
