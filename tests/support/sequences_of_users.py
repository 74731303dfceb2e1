"""Other architectures as users bring them, small: T5, a TCN, siamese, tabular, packed sequences, an unrolled decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


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
