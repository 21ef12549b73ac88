"""A small Vision Transformer whose modules bear timm's names, so that what is written for timm's fits this one.

Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021, in its pre-norm form. The softmax is an operation of
its own, not part of a fused kernel, so that methods which read or reroute attention can see it: the probabilities are
the output of `blocks.N.attn.attn_drop`, `n heads t t`.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core.errors import BadInput
from glasshouse.core.types import Images, Logits


class PatchEmbed(nn.Module):
    """One token per patch: a linear map of its pixels."""

    def __init__(self, patch: int, dim: int, n_channels: int):
        super().__init__()
        self.proj = nn.Conv2d(n_channels, dim, patch, patch)

    def forward(self, images: Images) -> Float[Tensor, "n t d"]:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """`softmax(q k^T / sqrt(d)) v` per head, then a linear map."""

    def __init__(self, dim: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.scale = (dim // n_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attn_drop = nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        q, k, v = rearrange(self.qkv(tokens), "n t (three m d) -> three n m t d", three=3, m=self.n_heads)
        probabilities = self.attn_drop((self.scale * q @ k.transpose(-2, -1)).softmax(-1))
        return self.proj(rearrange(probabilities @ v, "n m t d -> n t (m d)"))


class Mlp(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        return self.fc2(self.act(self.fc1(tokens)))


class Block(nn.Module):
    """Attention, then a network per token; each adds to the stream what it makes of the normalised stream."""

    def __init__(self, dim: int, n_heads: int, mlp_ratio: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, n_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """Patches and a class token, transformer blocks, linear classifier on the class token. 1.2 M weights at 64 px."""

    def __init__(
        self,
        n_classes: int,
        *,
        size: int = 64,
        patch: int = 8,
        dim: int = 128,
        depth: int = 6,
        n_heads: int = 4,
        mlp_ratio: int = 4,
        n_channels: int = 3,
    ):
        super().__init__()
        if size % patch or dim % n_heads:
            raise BadInput(
                f"{size} px do not divide into patches of {patch}, or {dim} dimensions not into {n_heads} heads.",
                "Try size=64, patch=8, dim=128, n_heads=4.",
            )
        self.size = size
        self.patch_embed = PatchEmbed(patch, dim, n_channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, dim))
        self.blocks = nn.Sequential(*(Block(dim, n_heads, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, n_classes)
        for weight in (self.cls_token, self.pos_embed, *(m.weight for m in self.modules() if isinstance(m, nn.Linear))):
            nn.init.trunc_normal_(weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, images: Images) -> Logits:
        if images.shape[-2:] != (self.size, self.size):
            h, w = images.shape[-2:]
            raise BadInput(f"images have {h} × {w} px; this transformer takes {self.size} × {self.size}.")
        tokens = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])
