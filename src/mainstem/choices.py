"""The names by which parts of networks are asked for; the parts themselves are in nn/, which needs torch."""

ACTIVATIONS = ("sigmoid", "tanh", "relu", "gelu", "silu")
NORMS = ("none", "batch", "layer")
INITS = (  # of torch.nn.init; "default" is what the layer itself does
    *("default", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal"),
    *("orthogonal", "normal", "uniform", "trunc_normal", "zeros"),
)
