"""The block in which image tokens attend to each other and to a text: CLIP-Count's and CounTX's interaction module.

Both took it from CounTR (Liu et al., BMVC 2022). Checked against models_crossvit.py of songrise/CLIP-Count@ba57fd0 and
of niki-amini-naieni/CounTX@6e2af64; golden cases ``small_block`` and ``interaction_and_decoder``.
Where the text is one token, the softmax over it is 1: the block then adds one vector to every position, and the
queries of its cross-attention learn nothing.
"""

from torch import Tensor, nn
from torch.nn import functional


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(width, width)
        self.wk = nn.Linear(width, width)
        self.wv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        # tokens [B, N, C] attend to text [B, T, C]
        projected = ((self.wq, tokens), (self.wk, text), (self.wv, text))
        query, key, value = (linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear, x in projected)
        mixed = functional.scaled_dot_product_attention(query, key, value)  # (B, heads, N, C / heads)
        return self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))


class InteractionBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward layer; ``doubled`` needs the ``convolution``."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        eps: float = 1e-5,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        convolution: bool = False,
    ) -> None:
        from timm.layers import Attention, DropPath, Mlp  # not from timm.models, which reads all networks of timm

        super().__init__()
        self.norm0 = nn.LayerNorm(width, eps=eps)
        if convolution:
            self.conv0 = nn.Conv2d(width, width, 3, padding=1)
        self.selfattn = Attention(width, heads, qkv_bias=True, proj_drop=dropout)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = _CrossAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop=dropout)
        self.drop_path = DropPath(drop_path)

    def doubled(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tokens of a grid twice as fine in both directions: x + GELU(conv(x)), enlarged bilinearly."""
        grid = tokens.transpose(1, 2).unflatten(2, size)  # (B, C, h, w)
        grid = grid + functional.gelu(self.conv0(grid))
        grid = functional.interpolate(grid, scale_factor=2, mode="bilinear", align_corners=False)
        return grid.flatten(2).transpose(1, 2)  # (B, 4 * N, C)

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return tokens [B, N, C] after reading each other and the text [B, T, C]."""
        tokens = tokens + self.drop_path(self.selfattn(self.norm0(tokens)))
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), text))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))
