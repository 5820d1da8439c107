"""Small replicas of the module shapes of Mamba vision networks, written from their papers, on the packages that those
networks ask for: this file is imported within `stand_ins`, as somebody else's code is.

    Mamba        Mamba (2312.00752), Vim's two directions (2401.09417), Vivim's and SegMamba's three (2401.14168)
    SS2D         VMamba's cross-scan (2401.10166), four results that are added up
    Windowed     LocalMamba's scan within windows (2403.09338)
    Atrous       EfficientVMamba's skipping scan (2403.09977)
    Mixer        MambaVision's symmetric convolutions (2407.08083)
"""

import math

import causal_conv1d_cuda
import selective_scan_cuda
import selective_scan_cuda_core
import selective_scan_cuda_oflex
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.ops.triton.layernorm import RMSNorm
from torch import nn

WIDTH, STATES, RANK = 8, 4, 2


@triton.autotune(configs=[triton.Config({"BLOCK": 16}, num_warps=2)], key=["n"])
@triton.jit
def kernel(x, n, BLOCK: tl.constexpr):  # never launched
    raise AssertionError


def parameters(module, suffix="", inner=2 * WIDTH, states=STATES):
    setattr(module, f"conv1d{suffix}", nn.Conv1d(inner, inner, 4, groups=inner, padding=3))
    setattr(module, f"x_proj{suffix}", nn.Linear(inner, RANK + 2 * states, bias=False))
    setattr(module, f"dt_proj{suffix}", nn.Linear(RANK, inner))
    a = torch.arange(1.0, states + 1).repeat(inner, 1) * torch.rand(inner, 1).add(0.5)
    setattr(module, f"A{suffix}_log", nn.Parameter(a.log()))
    setattr(module, f"D{suffix}", nn.Parameter(torch.rand(inner)))


class Mamba(nn.Module):
    def __init__(self, bimamba_type="none", nslices=1, halved=False):
        super().__init__()
        self.bimamba_type, self.nslices, self.if_divide_out = bimamba_type, nslices, halved
        self.in_proj, self.out_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        for suffix in {"none": [""], "v2": ["", "_b"], "v3": ["", "_b", "_s"]}[bimamba_type]:
            parameters(self, suffix)

    def scan(self, xz, suffix):
        part = {name: getattr(self, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj", "D")}
        x, z = xz.chunk(2, dim=1)
        conv = part["conv1d"]
        x = causal_conv1d_cuda.causal_conv1d_fwd(x, conv.weight.squeeze(1), conv.bias, None, None, None, True)
        low, b, c = part["x_proj"](x.transpose(1, 2)).split([RANK, STATES, STATES], dim=-1)
        delta = (low @ part["dt_proj"].weight.T).transpose(1, 2)
        A = -torch.exp(getattr(self, f"A{suffix}_log").float())
        bias = part["dt_proj"].bias.float()
        b, c = b.transpose(1, 2)[:, None], c.transpose(1, 2)[:, None]
        _, _, *rest = selective_scan_cuda.fwd(x, delta, A, b, c, part["D"].float(), z, bias, True)
        return rest[0]

    def forward(self, hidden_states):
        xz = self.in_proj(hidden_states).transpose(1, 2)
        out = self.scan(xz, "")
        if self.bimamba_type in ("v2", "v3"):
            out = out + self.scan(xz.flip(-1), "_b").flip(-1)
        if self.bimamba_type == "v3":
            sliced = torch.stack(xz.chunk(self.nslices, dim=-1), dim=-1).flatten(-2)
            back = self.scan(sliced, "_s").unflatten(-1, (-1, self.nslices)).transpose(-1, -2).flatten(-2)
            out = out + back
        if self.if_divide_out:
            out = out / 2
        return self.out_proj(out.transpose(1, 2))


class SS2D(nn.Module):
    """x (B, H, W, C); N = 1, as VMamba has it."""

    extension, arguments = selective_scan_cuda_oflex, (1, True)

    def __init__(self, states=1):
        super().__init__()
        inner = 2 * WIDTH
        self.states = states
        self.in_proj, self.out_proj = nn.Linear(WIDTH, 2 * inner), nn.Linear(inner, WIDTH)
        self.out_norm = nn.LayerNorm(inner)
        self.x_proj_weight = nn.Parameter(torch.randn(4, RANK + 2 * states, inner) / 4)
        self.dt_projs_weight = nn.Parameter(torch.randn(4, inner, RANK))
        self.dt_projs_bias = nn.Parameter(torch.randn(4, inner) - 2)
        self.A_logs = nn.Parameter(torch.randn(4 * inner, states))
        self.Ds = nn.Parameter(torch.rand(4 * inner))

    def core(self, x):
        return self.forward_core(x)

    def forward_core(self, x):
        batch, inner, height, width = x.shape
        length = height * width
        two = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], dim=1)
        ys = self.scan(torch.cat([two, two.flip(-1)], dim=1))
        back = ys[:, 2:].flip(-1)

        def turned(y):
            return y.view(batch, inner, width, height).transpose(2, 3).reshape(batch, inner, length)

        return ys[:, 0], back[:, 0], turned(ys[:, 1]), turned(back[:, 1])

    def scan(self, xs):
        batch, _, inner, length = xs.shape
        columns = torch.einsum("bkdl,kcd->bkcl", xs, self.x_proj_weight)
        low, b, c = columns.split([RANK, self.states, self.states], dim=2)
        delta = torch.einsum("bkrl,kdr->bkdl", low, self.dt_projs_weight).reshape(batch, -1, length).float()
        A = -torch.exp(self.A_logs.float())
        bias, skip = self.dt_projs_bias.float().view(-1), self.Ds.float()
        xs = xs.float().reshape(batch, -1, length)
        out, *_ = self.extension.fwd(xs, delta, A, b.contiguous(), c.contiguous(), skip, bias, True, *self.arguments)
        assert out.dtype == torch.float32
        return out.view(batch, 4, inner, length)

    def forward(self, x):
        batch, height, width, _ = x.shape
        x, z = self.in_proj(x).chunk(2, dim=-1)
        y = sum(self.core(F.silu(x.permute(0, 3, 1, 2))))
        y = self.out_norm(y.transpose(1, 2).reshape(batch, height, width, -1))
        return self.out_proj(y * F.silu(z))


class Told(SS2D):
    """LocalVMamba's forward_core is told how its picture lies, and fails without."""

    def core(self, x):
        return self.forward_core(x, channel_first=True)

    def forward_core(self, x, *, channel_first):
        assert channel_first
        return super().forward_core(x)


class Windowed(SS2D):
    """Scans within 2 x 2 windows: another order than the fused operator has."""

    extension, arguments = selective_scan_cuda_core, (1,)

    def forward_core(self, x):
        batch, inner, height, width = x.shape
        windows = x.view(batch, inner, height // 2, 2, width // 2, 2).permute(0, 1, 2, 4, 3, 5).flatten(2)
        turned = x.transpose(2, 3).flatten(2)
        ys = self.scan(torch.stack([windows, turned, windows.flip(-1), turned.flip(-1)], dim=1))
        first = ys[:, 0] + ys[:, 2].flip(-1)
        first = first.view(batch, inner, height // 2, width // 2, 2, 2).permute(0, 1, 2, 4, 3, 5).flatten(2)
        second = (ys[:, 1] + ys[:, 3].flip(-1)).view(batch, inner, width, height).transpose(2, 3).flatten(2)
        return first, second


class Atrous(SS2D):
    """Each direction scans every second row and column: four scans of a quarter of the tokens."""

    def forward_core(self, x):
        batch, inner, height, width = x.shape
        parts = [x[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        ys = self.scan(torch.stack([p.flatten(2) for p in parts], dim=1))
        y = x.new_zeros(batch, inner, height // 2, 2, width // 2, 2)
        y = ys.view(batch, 2, 2, inner, height // 2, width // 2).permute(0, 3, 4, 2, 5, 1)
        y = y.reshape(batch, inner, height * width)
        return y, torch.zeros_like(y)


class Mixer(nn.Module):
    """Symmetric convolutions beside each other, N = 8, no gate."""

    def __init__(self):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.x_proj = nn.Linear(WIDTH, RANK + 16, bias=False)
        self.dt_proj = nn.Linear(RANK, WIDTH)
        self.A_log = nn.Parameter(torch.arange(1.0, 9.0).repeat(WIDTH, 1).log())
        self.D = nn.Parameter(torch.ones(WIDTH))
        self.conv_x, self.conv_z = (nn.Conv1d(WIDTH, WIDTH, 3, groups=WIDTH, padding="same") for _ in range(2))

    def forward(self, x):
        x, z = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        x, z = F.silu(self.conv_x(x)), F.silu(self.conv_z(z))
        low, b, c = self.x_proj(x.transpose(1, 2)).split([RANK, 8, 8], dim=-1)
        delta = (low @ self.dt_proj.weight.T).transpose(1, 2)
        A, bias = -torch.exp(self.A_log.float()), self.dt_proj.bias.float()
        b, c = b.transpose(1, 2).contiguous(), c.transpose(1, 2).contiguous()
        y = selective_scan_fn(x, delta, A, b, c, self.D.float(), z=None, delta_bias=bias, delta_softplus=True)
        return self.out_proj(torch.cat([y, z], dim=1).transpose(1, 2))


class Sequence(nn.Module):
    """A network of blocks over tokens (B, L, C)."""

    def __init__(self, *blocks):
        super().__init__()
        self.norms, self.blocks = nn.ModuleList(RMSNorm(WIDTH) for _ in blocks), nn.ModuleList(blocks)

    def forward(self, x):
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return x


class Picture(nn.Module):
    """A segmentation network over pictures (B, 3, H, W) -> (B, 2, H, W)."""

    def __init__(self, *blocks):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, WIDTH, 2, stride=2), nn.ModuleList(blocks)
        self.head = nn.Conv2d(WIDTH, 2, 1)

    def forward(self, x):
        size = x.shape[2:]
        x = self.stem(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = x + block(x)
        return F.interpolate(self.head(x.permute(0, 3, 1, 2)), size=size, mode="bilinear")


def one_direction():
    return Sequence(Mamba())


def two_directions(halved=False):
    return Sequence(Mamba("v2", halved=halved), Mamba("v2", halved=halved))


def three_directions():
    return Sequence(Mamba("v3", nslices=3))


def mixers():
    return Sequence(Mixer())


def crossing(told=False):
    return Picture(SS2D(), Told() if told else SS2D())


def mixed():
    return Picture(SS2D(), Windowed(), Atrous())


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Mamba()

    def forward(self, x):
        batch = int(x.shape[0] / 1)
        return self.inner(x.reshape(batch, -1, WIDTH))


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # depends on the data: no graph has it
            return x
        return -x


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(2, 3) * math.pi
