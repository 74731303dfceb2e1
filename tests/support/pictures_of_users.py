"""Vision architectures as users bring them, small: ConvNeXt, Swin, ViT, a GAN's generator, a U-Net, an EfficientNet block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelsLastNorm(nn.Module):
    """LayerNorm over the channels of an image, with the mean and variance written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class DropPath(nn.Module):
    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        if self.chance == 0.0 or not self.training:
            return x
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.chance)
        return x * mask / (1 - self.chance)


class ConvNextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.act, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(0.1 * torch.ones(width))
        self.drop = DropPath(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.gamma * self.down(self.act(self.up(self.norm(y))))
        return x + self.drop(y.permute(0, 3, 1, 2))


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), ChannelsLastNorm(16))
        self.blocks = nn.Sequential(ConvNextBlock(16), ConvNextBlock(16))
        self.shrink = nn.Sequential(ChannelsLastNorm(16), nn.Conv2d(16, 24, 2, stride=2))
        self.last, self.norm, self.head = ConvNextBlock(24), nn.LayerNorm(24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.shrink(self.blocks(self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))


def windows(x: Tensor, size: int) -> Tensor:
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, c)


def unwindows(x: Tensor, size: int, h: int, w: int) -> Tensor:
    x = x.view(-1, h // size, w // size, size, size, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, h, w, x.shape[-1])


def unwindows_by_int(x: Tensor, size: int, h: int, w: int) -> Tensor:
    """The same as many copies of the paper's code have it: int() of a size cannot be traced."""
    b = int(x.shape[0] / (h * w / size / size))
    x = x.view(b, h // size, w // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


class WindowAttention(nn.Module):
    """With a learned bias by relative position, fetched through an index buffer."""

    def __init__(self, width: int, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.table = nn.Parameter(0.02 * torch.randn((2 * size - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        away = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + size - 1
        self.register_buffer("index", away[..., 0] * (2 * size - 1) + away[..., 1])
        self.qkv, self.proj, self.softmax = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Softmax(dim=-1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()
        scores = scores + bias.unsqueeze(0)
        if mask is not None:
            w = mask.shape[0]
            scores = scores.view(b // w, w, self.heads, n, n) + mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, self.heads, n, n)
        return self.proj((self.softmax(scores) @ v).transpose(1, 2).reshape(b, n, c))


class SwinBlock(nn.Module):
    def __init__(self, width: int, resolution: int, size: int, shift: int) -> None:
        super().__init__()
        self.resolution, self.size, self.shift = resolution, size, shift
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), WindowAttention(width, size, 2), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))
        mask = None
        if shift:
            image, count = torch.zeros(1, resolution, resolution, 1), 0
            cuts = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
            for rows in cuts:
                for columns in cuts:
                    image[:, rows, columns, :] = count
                    count += 1
            cells = windows(image, size).squeeze(-1)
            away = cells.unsqueeze(1) - cells.unsqueeze(2)
            mask = away.masked_fill(away != 0, -100.0).masked_fill(away == 0, 0.0)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        h = w = self.resolution
        assert n == h * w, "wrong size"
        y = self.norm1(x).view(b, h, w, c)
        if self.shift > 0:
            y = torch.roll(y, shifts=(-self.shift, -self.shift), dims=(1, 2))
        y = unwindows(self.attn(windows(y, self.size), mask=self.mask), self.size, h, w)
        if self.shift > 0:
            y = torch.roll(y, shifts=(self.shift, self.shift), dims=(1, 2))
        x = x + y.view(b, h * w, c)
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.blocks = nn.Sequential(SwinBlock(16, 8, 4, 0), SwinBlock(16, 8, 4, 2))
        self.reduce, self.norm, self.head = nn.Linear(64, 32, bias=False), nn.LayerNorm(64), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patch(x).flatten(2).transpose(1, 2))
        b, _, c = x.shape
        x = x.view(b, 8, 8, c)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1).view(b, -1, 4 * c)
        return self.head(self.reduce(self.norm(x)).mean(1))


class VitBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 4, batch_first=True)
        self.fc1, self.fc2, self.scale = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Parameter(
            torch.ones(width)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0] * self.scale
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class Vit(nn.Module):
    """A class token, position embeddings that are resized, and scaled_dot_product_attention's module."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, stride=8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(0.1 * torch.randn(1, 17, 32))
        self.blocks = nn.ModuleList([VitBlock(32) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return {"logits": self.head(x[:, 0]), "pooled": x[:, 1:].mean(dim=1)}


class Generator(nn.Module):
    """DCGAN: transposed convolutions, batch norms that fold, tanh; conditioned on a label."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(10, 8)
        self.main = nn.Sequential(
            nn.ConvTranspose2d(24, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
            nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(16, 8, 3),
            nn.InstanceNorm2d(8, affine=True), nn.PReLU(8), nn.PixelShuffle(2), nn.Conv2d(2, 3, 3, padding="same"),
            nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        z = torch.cat([noise, self.label(labels)], dim=1)
        return self.main(z.view(z.size(0), -1, 1, 1))


class DoubleConv(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU(inplace=True),
        )  # fmt: skip


class Up(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, is_bilinear: bool) -> None:
        super().__init__()
        self.up: nn.Module = (
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            if is_bilinear
            else nn.ConvTranspose2d(inputs - outputs, inputs - outputs, 2, stride=2)
        )
        self.conv = DoubleConv(inputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        dy, dx = skip.size()[2] - x.size()[2], skip.size()[3] - x.size()[3]
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = DoubleConv(3, 8), DoubleConv(8, 16), DoubleConv(16, 16)
        self.pool = nn.MaxPool2d(2)
        self.up1, self.up2 = Up(32, 16, is_bilinear=True), Up(24, 8, is_bilinear=False)
        self.outc = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.inc(x)
        b = self.down1(self.pool(a))
        c = self.down2(self.pool(b))
        y = self.outc(self.up2(self.up1(c, b), a))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


class SqueezeExcite(nn.Module):
    """EfficientNet's block: depthwise, squeeze and excite, SiLU, a skip; and a stack of `einsum` and `chunk` after."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU(inplace=True))
        self.depth = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.SiLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.mixer = nn.Parameter(torch.randn(8, 8) / 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        y = self.depth(x)
        y = x + self.project(y * self.squeeze(y))
        left, right = y.chunk(2, dim=1)
        gated = F.glu(torch.cat([left, torch.einsum("bchw,cd->bdhw", right, self.mixer)], 1), dim=1)
        z = torch.cat([gated, left * torch.tanh(F.softplus(right))], 1)
        return self.head(F.adaptive_avg_pool2d(z, 1).flatten(1))
