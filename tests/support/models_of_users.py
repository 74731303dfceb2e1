"""Architectures as users bring them, small: convolutional, attention, recurrent, generative, with odd arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


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


class RmsNorm(nn.Module):
    """As T5 has it: the variance in float32, then back to the dtype of the weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(variance + self.eps)
        if self.weight.dtype in [torch.float16, torch.bfloat16]:
            x = x.to(self.weight.dtype)
        return self.weight * x


class T5Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, has_bias: bool) -> None:
        super().__init__()
        self.heads, self.size, self.has_bias = heads, width // heads, has_bias
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        if has_bias:
            self.relative = nn.Embedding(8, heads)

    def bias(self, queries: int, keys: int) -> Tensor:
        away = torch.arange(keys)[None, :] - torch.arange(queries)[:, None]
        return self.relative(away.clamp(-4, 3) + 4).permute(2, 0, 1).unsqueeze(0)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        source = x if memory is None else memory

        def split(y: Tensor) -> Tensor:
            return y.view(b, -1, self.heads, self.size).transpose(1, 2)

        scores = torch.matmul(split(self.q(x)), split(self.k(source)).transpose(3, 2))
        if self.has_bias:
            scores = scores + self.bias(n, source.size(1))
        if mask is not None:
            scores = scores + (1.0 - mask[:, None, None, :]) * -1e9
        weights = F.dropout(F.softmax(scores.float(), dim=-1).type_as(scores), p=0.1, training=self.training)
        return self.o(torch.matmul(weights, split(self.v(source))).transpose(1, 2).contiguous().view(b, n, -1))


class T5Layer(nn.Module):
    def __init__(self, width: int, *, has_cross: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([RmsNorm(width) for _ in range(3)])
        self.attention = T5Attention(width, 4, has_bias=True)
        self.cross = T5Attention(width, 4, has_bias=False) if has_cross else None
        self.gate, self.up, self.down = nn.Linear(width, 32), nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norms[0](x), mask=None if memory is not None else mask)
        if self.cross is not None:
            x = x + self.cross(self.norms[1](x), memory, mask)
        y = self.norms[2](x)
        return x + self.down(F.gelu(self.gate(y)) * self.up(y))


class T5(nn.Module):
    """Encoder and decoder over one tied table, called with keywords only."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(50, 16)
        self.encoder = nn.ModuleList([T5Layer(16, has_cross=False)])
        self.decoder = nn.ModuleList([T5Layer(16, has_cross=True)])
        self.lm_head = nn.Linear(16, 50, bias=False)
        self.lm_head.weight = self.shared.weight

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, decoder_input_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        mask = None if attention_mask is None else attention_mask.to(self.shared.weight.dtype)
        memory = self.shared(input_ids)
        for layer in self.encoder:
            memory = layer(memory, mask=mask)
        x = self.shared(input_ids if decoder_input_ids is None else decoder_input_ids)
        for layer in self.decoder:
            x = layer(x, memory, mask)
        return self.lm_head(x * (16**-0.5)), memory


class CausalBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        weight_norm = nn.utils.parametrizations.weight_norm
        self.conv1 = weight_norm(nn.Conv1d(inputs, outputs, 3, padding=self.pad, dilation=dilation))
        self.conv2 = weight_norm(nn.Conv1d(outputs, outputs, 3, padding=self.pad, dilation=dilation))
        self.match = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None
        self.act, self.drop = nn.ReLU(), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.act(self.conv1(x)[:, :, : -self.pad]))
        y = self.drop(self.act(self.conv2(y)[..., : -self.pad].contiguous()))
        return self.act(y + (x if self.match is None else self.match(x)))


class Tcn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(CausalBlock(4, 16, 1), CausalBlock(16, 16, 2), CausalBlock(16, 16, 4))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.head(self.network(x.transpose(1, 2))[:, :, -1]), dim=1)


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


class Siamese(nn.Module):
    """One body, called twice; distances in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.embed, self.head = nn.Linear(32, 16), nn.Bilinear(16, 16, 1)

    def one(self, x: Tensor) -> Tensor:
        return F.normalize(self.embed(self.body(x)), p=2, dim=1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = self.one(left), self.one(right)
        return F.pairwise_distance(a, b), F.cosine_similarity(a, b), torch.sigmoid(self.head(a, b)).squeeze(-1)


class Tabular(nn.Module):
    """A dict of tables: categories through embeddings, numbers through a batch norm, a mask that fills."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({"city": nn.Embedding(20, 4), "day": nn.Embedding(7, 3)})
        self.norm = nn.BatchNorm1d(6)
        self.layers = nn.Sequential(nn.Linear(13, 32), nn.ELU(), nn.Dropout(0.3), nn.Linear(32, 16), nn.Hardswish())
        self.heads = nn.ModuleDict({"price": nn.Linear(16, 1), "kind": nn.Linear(16, 3)})

    def forward(self, batch: dict[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
        numbers = self.norm(batch["numbers"].masked_fill(batch["missing"], 0.0))
        parts = [table(batch[name]) for name, table in self.tables.items()]
        x = self.layers(torch.cat([*parts, numbers], dim=-1)) * scale
        return {name: head(x).squeeze(-1) for name, head in self.heads.items()}


class Packed(nn.Module):
    """A bidirectional LSTM over packed sequences, attention over its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 10, num_layers=2, batch_first=True, bidirectional=True)
        self.score, self.head = nn.Linear(20, 1), nn.Linear(20, 4)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.table(tokens), lengths, batch_first=True, enforce_sorted=False)
        steps, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        weights = torch.softmax(self.score(steps), dim=1)
        return self.head((weights * steps).sum(1))


class Seq2Seq(nn.Module):
    """GRU encoder and a GRUCell decoder that unrolls a fixed number of steps, with dot attention."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.cell = nn.GRU(6, 12, batch_first=True), nn.GRUCell(6, 12)
        self.mix, self.out, self.steps = nn.Linear(24, 12), nn.Linear(12, 6), 4

    def forward(self, x: Tensor) -> Tensor:
        memory, last = self.encoder(x)
        hidden, token, outputs = last[-1], x[:, -1], []
        for _ in range(self.steps):
            hidden = self.cell(token, hidden)
            weights = torch.bmm(memory, hidden.unsqueeze(-1)).softmax(1)
            context = torch.bmm(weights.transpose(1, 2), memory).squeeze(1)
            hidden = torch.tanh(self.mix(torch.cat((hidden, context), -1)))
            token = self.out(hidden)
            outputs.append(token)
        return torch.stack(outputs, dim=1)


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


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _images(count: int, channels: int, size: int) -> Tensor:
    return torch.randn(count, channels, size, size, generator=_generator())


def _tokens(count: int, length: int, words: int) -> Tensor:
    return torch.randint(1, words, (count, length), generator=_generator())


def _t5() -> dict[str, Tensor]:
    mask = (torch.arange(9)[None, :] < torch.arange(4, 20)[:, None]).long()
    return {"input_ids": _tokens(16, 9, 50), "attention_mask": mask, "decoder_input_ids": _tokens(16, 5, 50)}


def _table() -> tuple[Any, ...]:
    batch = {
        "city": _tokens(64, 1, 20)[:, 0],
        "day": _tokens(64, 1, 7)[:, 0],
        "numbers": torch.randn(64, 6, generator=_generator()),
        "missing": torch.rand(64, 6, generator=_generator()) < 0.2,
    }
    return (batch,)


def _packed() -> tuple[Tensor, Tensor]:
    return _tokens(16, 7, 30), torch.arange(16) % 6 + 2


# name → (model, one batch: a tuple of arguments or a dict of keywords)
MODELS_OF_USERS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "convnext": (ConvNext, (_images(16, 3, 32),)),
    "swin": (Swin, (_images(16, 3, 32),)),
    "vit": (Vit, (_images(16, 3, 32),)),
    "t5": (T5, _t5()),
    "tcn": (Tcn, (torch.randn(16, 20, 4, generator=_generator()),)),
    "generator": (Generator, (torch.randn(16, 16, generator=_generator()), _tokens(16, 1, 10)[:, 0])),
    "unet": (UNet, (_images(8, 3, 20),)),
    "siamese": (Siamese, (_images(16, 1, 10), _images(16, 1, 10).flip(0))),
    "tabular": (Tabular, _table()),
    "packed": (Packed, _packed()),
    "seq2seq": (Seq2Seq, (torch.randn(16, 6, 6, generator=_generator()),)),
    "squeeze": (SqueezeExcite, (_images(16, 3, 12),)),
}


def model_of_user(name: str) -> nn.Module:
    """The model in eval mode, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS_OF_USERS[name][0]().eval()
