"""What one of two processes computes for the tests of batch norms; spawned, so it stands in a module of its own."""

import copy

import torch
from torch import distributed, nn

from genfw.nn.batch_norm import single_process_statistics, synchronised

ROWS = 12
#: Rows of the first of two processes: even, and as uneven as it gets.
SHARES = {"equal": 6, "unequal": 5, "one row": 1}
#: Values far from 0 beside their deviation, where a sum of squares in float32 would lose the variance.
FAR = 1e4


class Plain(nn.BatchNorm1d):
    """A class of its own, as NVAE's is; it inherits its forward."""


class Own(nn.BatchNorm1d):
    """It has a forward of its own."""

    def forward(self, x):
        return 2.0 * super().forward(x)


class Net(nn.Module):
    """Both kinds of batch norm, one whose averages are plain means, one without averages, one without weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.BatchNorm2d(4, momentum=None)
        )
        self.second = nn.Sequential(
            nn.Linear(36, 5), Plain(5, momentum=0.3), nn.SiLU(), nn.BatchNorm1d(5, track_running_stats=False)
        )
        self.last = nn.Sequential(nn.BatchNorm1d(5, affine=False), nn.Linear(5, 1))

    def forward(self, x):
        return self.last(self.second(self.first(x).flatten(1)))


def network(dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net().to(dtype)
        for name, value in net.named_parameters():
            if "weight" in name and value.ndim == 1:
                nn.init.uniform_(value, 0.5, 1.5)
        return net


def rows(dtype, count=ROWS):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 2, 3, 3, generator=generator, dtype=torch.float64)
    # Rows differ in law: what a process sees alone is nothing like what all see.
    x = x * torch.linspace(0.5, 3.0, count, dtype=torch.float64).view(-1, 1, 1, 1) + torch.linspace(
        -2.0, 2.0, count, dtype=torch.float64
    ).view(-1, 1, 1, 1)
    return x.to(dtype)


def two_losses(net, x, whole):
    """The sum of a loss over this process's rows, as a share of the whole batch's mean; twice, for running averages."""
    return [(net(scale * x).square().sum() + net(scale * x).sum()) / whole for scale in (1.0, 0.7)]


def gradients(net, x, whole):
    """Of parameters and rows: each process's share, to be added up."""
    x = x.clone().requires_grad_(True)
    loss = sum(two_losses(net, x, whole))
    return torch.autograd.grad(loss, [x, *net.parameters()])


def slope_gradients(net, x, whole):
    """Of a penalty on the slope in the rows, as WGAN-GP has it: second derivatives."""
    x = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(net(x).tanh().sum(), x, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1.0).square().sum() / whole
    return torch.autograd.grad(penalty, [x, *net.parameters()], allow_unused=True)


def buffers(net):
    return {name: value.clone() for name, value in net.named_buffers()}


def measure(net, x, whole):
    found = {"gradients": gradients(net, x, whole), "buffers": buffers(net)}
    found["slope gradients"] = slope_gradients(net, x, whole)
    return found


def far_away(layer, x):
    return {"y": layer(x + FAR).detach(), "mean": layer.running_mean, "variance": layer.running_var}


def process(rank, port, folder):
    """What one of two processes finds; everything in one start, which is what takes the time."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    found = {}
    for name, dtype in (("double", torch.float64), ("single", torch.float32)):
        for share, first in SHARES.items():
            x = rows(dtype)[:first] if rank == 0 else rows(dtype)[first:]
            net = network(dtype)
            with synchronised(net):
                found[name, share] = measure(net, x, ROWS)
                assert found[name, share]["buffers"].keys() == buffers(net).keys()
    half = rows(torch.float32)[:6] if rank == 0 else rows(torch.float32)[6:]
    found["off"] = measure(network(torch.float32), half, ROWS)
    with synchronised(layer := nn.BatchNorm2d(2)):
        found["far"] = far_away(layer, half)
    with synchronised(layer := nn.BatchNorm2d(2)), torch.autocast("cpu", torch.bfloat16):
        y = layer(half.bfloat16())
        assert y.dtype == torch.bfloat16
        found["half precision"] = (y.float(), layer.running_var)
    found["kept apart"] = kept_apart(rank, half)
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def kept_apart(rank, x):
    """Calls that only the first process makes: were they to wait for the other, this would not return."""
    net, alike, own = network(torch.float32), network(torch.float32), nn.Sequential(Own(18))
    with synchronised(net), synchronised(own):
        net(x)
        copied = copy.deepcopy(net)
        copied(x)
        net.eval()
        if rank == 0:
            net(x)
            own(x.flatten(1))
        net.train()
        with single_process_statistics(net, net.first):
            if rank == 0:
                copy.deepcopy(net)(x)
        with synchronised(net.first):  # told twice: the outer block holds on after the inner one
            net(x)
        net(x)
    if rank == 0:
        copy.deepcopy(net)(x)
    with synchronised(alike):
        for _ in range(3):
            alike(x)
    return {"buffers": buffers(net), "alike": buffers(alike), "copy": buffers(copied)}
