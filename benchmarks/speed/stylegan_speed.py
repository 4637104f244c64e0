"""StyleGAN's and StyleGAN2's synthesis at 256 pixels, beside the same formulas written down plainly.

Plain is: pixels repeated and convolved, a depthwise 3 x 3 blur, normalisation and style one after the other (StyleGAN);
weights of its own for every item in a grouped convolution, zeros put between pixels, a depthwise 4 x 4 filter
(StyleGAN2). Both ways compute the same images and gradients to the styles, which is checked first; then they are timed
in turn in one process. Memory is what the forward pass keeps for the backward pass, weights left out.

Run: python benchmarks/speed/stylegan_speed.py [--side 256] [--channels 512] [--batch 1] [--repeats 3]
     python benchmarks/speed/stylegan_speed.py --memory   # peaks, each way in a process of its own
"""

import argparse
import math
from collections.abc import Callable

import torch
from _ratios import Row, agree, interleaved, peak, peaks, row, table
from torch import Tensor, nn
from torch.nn import functional

from genfw_plugins.stylegan.modulated import Synthesis2
from genfw_plugins.stylegan.synthesis import Synthesis

Images = Callable[[Tensor], Tensor]
WAYS = ("stylegan, plain", "stylegan, genfw", "stylegan2-skip, plain", "stylegan2-skip, genfw")


def plain1(net: Synthesis, styles: Tensor) -> Tensor:
    """StyleGAN, formula by formula."""
    kernel = torch.outer(net.blur, net.blur) / net.blur.sum() ** 2
    x = net.const.expand(len(styles), -1, -1, -1)
    for number, finish in enumerate(net.finishes):
        if number:
            weight = net.weights[number - 1]
            if number % 2 == 0:
                x = functional.interpolate(x, scale_factor=2)
                weight = weight.transpose(0, 1).flip(2, 3)
            x = functional.conv2d(x, weight * math.sqrt(2.0 / weight[0].numel()), padding=1)
            if number % 2 == 0:
                x = functional.conv2d(x, kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
        x = x + finish.noise * finish.strength[:, None, None]
        x = functional.leaky_relu(x + finish.bias[:, None, None], 0.2)
        x = x - x.mean((2, 3), keepdim=True)
        x = x / torch.sqrt(x.square().mean((2, 3), keepdim=True) + 1e-8)
        scale, shift = finish.style(styles[:, number]).chunk(2, dim=1)
        x = x * (1.0 + scale[:, :, None, None]) + shift[:, :, None, None]
    return functional.conv2d(x, net.to_image / math.sqrt(net.to_image.shape[1]), net.image_bias)


def filtered(x: Tensor, kernel: Tensor, before: int, after: int) -> Tensor:
    """Zeros between pixels, then the filter."""
    wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, ::2, ::2] = x
    wide = functional.pad(wide, (before, after, before, after))
    filters = (4.0 * torch.outer(kernel, kernel) / kernel.sum() ** 2).expand(x.shape[1], 1, 4, 4)
    return functional.conv2d(wide, filters, groups=x.shape[1])


def modulated(
    x: Tensor, weight: Tensor, style: Tensor, kernel: Tensor, demodulate: bool = True, up: bool = False
) -> Tensor:
    """A convolution whose weights are made for every item, in one grouped convolution."""
    batch, (outputs, inputs, size, _) = len(x), weight.shape
    weight = weight[None] * style[:, None, :, None, None]
    if demodulate:
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, batch * inputs, *x.shape[2:])
    if up:
        weight = weight.transpose(1, 2).reshape(batch * inputs, outputs, size, size)
        y = functional.conv_transpose2d(x, weight, stride=2, groups=batch)
        y = y.reshape(batch, outputs, *y.shape[2:])
        filters = (4.0 * torch.outer(kernel, kernel) / kernel.sum() ** 2).expand(outputs, 1, 4, 4)
        return functional.conv2d(y, filters, padding=1, groups=outputs)
    y = functional.conv2d(x, weight.reshape(batch * outputs, inputs, size, size), padding=size // 2, groups=batch)
    return y.reshape(batch, outputs, *y.shape[2:])


def plain2(net: Synthesis2, styles: Tensor) -> Tensor:
    """StyleGAN2 with skips, formula by formula."""
    image, x = None, net.const.expand(len(styles), -1, -1, -1)
    for number, layer in enumerate(net.layers):
        x = modulated(x, layer.weight, layer.style(styles[:, number]), net.kernel, up=layer.up)
        x = x + layer.noise * layer.strength
        x = math.sqrt(2.0) * functional.leaky_relu(x + layer.bias[:, None, None], 0.2)
        if number % 2 == 0:
            out = net.images[number // 2]
            style = out.style(styles[:, number + 1]) / math.sqrt(out.weight.shape[1])
            rgb = modulated(x, out.weight, style, net.kernel, demodulate=False) + out.bias[:, None, None]
            image = rgb if image is None else filtered(image, net.kernel, 2, 1) + rgb
    return image


def backward(images: Images, styles: Tensor) -> Tensor:
    """Gradient of the mean square with respect to the styles."""
    styles = styles.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(images(styles).square().mean(), styles)
    return gradient


def kept(images: Images, styles: Tensor, net: nn.Module) -> float:
    """MiB that the forward pass keeps for the backward pass, beside the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    storages = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        images(styles.detach().requires_grad_(True))
    return sum(size for _, size in storages.values()) / 2**20


def compare(name: str, net: Synthesis | Synthesis2, plain: Images, batch: int, repeats: int) -> list[Row]:
    """Check that both ways agree, and time them."""
    net.requires_grad_(False)
    for parameter_name, parameter in net.named_parameters():
        if parameter_name == "const" or parameter_name.endswith("strength"):
            nn.init.normal_(parameter)  # a constant map has no spread to normalise by
    styles = torch.randn(batch, net.layer_count, 512)

    def own(w: Tensor) -> Tensor:
        images: Tensor = net(w)
        return images

    with net.prepared():  # as decoder 'stylegan' has it for the length of a chain
        with torch.no_grad():
            images = agree(f"{name}, images", own(styles), plain(styles), 1e-3)
            forward = interleaved([lambda: plain(styles), lambda: own(styles)], repeats)
        slopes = agree(f"{name}, gradients", backward(own, styles), backward(plain, styles), 1e-4)
        both = interleaved([lambda: backward(plain, styles), lambda: backward(own, styles)], repeats, warm=False)
        print(f"{name} keeps {kept(own, styles, net):.0f} MiB for a gradient, plain {kept(plain, styles, net):.0f} MiB")
    sizes = f"batch {batch}"
    return [
        row(f"{name}, forward", sizes, *forward, images),
        row(f"{name}, forward and backward to W+", sizes, *both, slopes),
    ]


def peak_of(way: str, side: int, most: int, batch: int) -> float:
    """MiB of one way's forward and backward pass at its worst."""
    net: Synthesis | Synthesis2
    if way.startswith("stylegan2"):
        net = Synthesis2(side, 3, 512, 64 * most, most, "skip")
    else:
        net = Synthesis(side, 3, 512, 32 * most, most)
    net.requires_grad_(False)
    styles = torch.randn(batch, net.layer_count, 512)

    def plain(w: Tensor) -> Tensor:
        return plain2(net, w) if isinstance(net, Synthesis2) else plain1(net, w)

    with net.prepared():
        return peak(lambda: backward(plain if way.endswith("plain") else net, styles))


def main() -> None:
    """Both generations, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("side", 256), ("channels", 512), ("batch", 1), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory and given.peak is None:
        peaks(WAYS)
        return
    torch.manual_seed(0)
    most = given.channels
    if given.peak is not None:
        print(peak_of(given.peak, given.side, most, given.batch))
        return
    first = Synthesis(given.side, 3, 512, 32 * most, most)
    rows = compare("stylegan", first, lambda styles: plain1(first, styles), given.batch, given.repeats)
    second = Synthesis2(given.side, 3, 512, 64 * most, most, "skip")
    rows += compare("stylegan2-skip", second, lambda styles: plain2(second, styles), given.batch, given.repeats)
    table(rows)


if __name__ == "__main__":
    main()
