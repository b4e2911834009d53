"""How long it takes to understand a ResNet-18, and to take a census of eight.

    OMP_NUM_THREADS=1 python benchmarks/networks.py [--members 8] [--inputs 128]

The networks (64-128-256-512 channels, 11 million parameters, for inputs 3×32×32) have random parameters and statistics:
times and memory do not depend on what they are. Memory is the process's high-water mark, the members in it.
"""

from __future__ import annotations

import time

import torch
from harness import arguments, parse, resident

import consilience as cs
from consilience.units.architecture import TracedNetwork, read_state
from consilience.units.follow import find_layers
from consilience.units.proof import prove


def network(seed: int, widths: tuple[int, ...]) -> cs.ResNet:
    """Return a ResNet-18 whose batch norms have scales, shifts and statistics of their own."""
    torch.manual_seed(seed)
    net = cs.ResNet(3, widths, 10, blocks_per_stage=2)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                    assert tensor is not None
                    tensor.uniform_(0.5, 1.5)
    return net.eval()


def main() -> None:
    """Measure, and print."""
    parser = arguments(__doc__)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=128)
    options = parse(parser)
    widths = (4, 4, 8, 8) if options.quick else (64, 128, 256, 512)
    if options.quick:
        options.members, options.inputs = 2, 16
    generator = torch.Generator().manual_seed(0)
    x, net = torch.randn(options.inputs, 3, 32, 32, generator=generator), network(0, widths)

    began = time.perf_counter()
    architecture = find_layers(net, x[:4])
    traced = time.perf_counter()
    prove(net, TracedNetwork(architecture, read_state(net)), x[:4])
    proved = time.perf_counter()
    print(
        f"first trace {traced - began:.1f} s, proof {proved - traced:.1f} s: {len(architecture.hidden)} hidden layers"
    )

    population = cs.Population.from_modules([network(k, widths) for k in range(options.members)], x[:4])
    built = time.perf_counter()
    census = cs.Census(n_resamples=0).fit(population, x)
    done = time.perf_counter()
    units = sum(len(layer.member) for layer in census.layers_.values())
    print(
        f"population of {options.members} {built - proved:.1f} s; census of {units} units on {options.inputs} inputs"
        f" {done - built:.1f} s; peak memory {resident('VmHWM') / 1000:.2f} GB"
    )


if __name__ == "__main__":
    main()
