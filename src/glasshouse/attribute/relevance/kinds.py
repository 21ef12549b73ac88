"""Which kind of operation a torch function is, as far as relevance is concerned."""


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVE = names(
    """
    view reshape flatten unflatten ravel squeeze unsqueeze permute transpose t T mT swapaxes swapdims movedim moveaxis
    contiguous clone to float double half bfloat16 type type_as expand expand_as broadcast_to repeat tile
    repeat_interleave split chunk unbind tensor_split narrow select index_select gather take_along_dim getitem roll
    flip rot90 unfold pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle view_as reshape_as alias
    detach get set requires_grad zero fill
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_max_pool1d_with_indices
    adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices max amax min amin maximum minimum sort topk
    """
)
"""Each result is one of the inputs, so relevance goes where the gradient goes: moved, selected, or to the winner."""

JOIN = names("cat concat concatenate stack hstack vstack pad where masked_fill setitem copy")
"""As `MOVE`, but results may also be constants, which keep the relevance they get."""

SUM = names(
    """
    add sub rsub addcmul mean sum cumsum lerp fold interpolate upsample avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    """
)
"""Sums without weights: in proportion to each input."""

PASS = names(
    """
    relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh sigmoid tanh softplus
    softsign threshold clamp clamp_min clamp_max logsigmoid hardshrink softshrink tanhshrink neg
    layer_norm group_norm instance_norm rms_norm local_response_norm normalize
    """
)
"""One input for each result: all of its relevance. The norms divide by what is taken for a constant."""

CONVOLUTION = names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
PRODUCT = names("matmul bmm mm mv dot rmatmul einsum")
GATE = names("sigmoid hardsigmoid")
"""Functions whose results weigh other signals."""

KINDS: dict[str, str] = {
    name: kind
    for kind, members in {
        "move": MOVE,
        "join": JOIN,
        "sums": SUM,
        "passing": PASS,
        "scale": names("mul div"),
        "weighted": CONVOLUTION | names("linear convolution_linear"),
        "product": PRODUCT,
        "softmax": names("softmax"),
        "batch_norm": names("batch_norm"),
        "addition_of_product": names("addmm baddbmm"),
        "attention": names("scaled_dot_product_attention"),
        "multi_head_attention": names("multi_head_attention_forward"),
    }.items()
    for name in members
}
"""By the name of a function, the name of the method of `Relevance` that handles it."""
