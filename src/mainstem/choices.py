"""What several parts must agree on: the names by which parts of networks are asked for (the parts themselves are in nn/, which needs
torch), and the quantiles that an answer is told by."""

ACTIVATIONS = ("sigmoid", "tanh", "relu", "gelu", "silu")
NORMS = ("none", "batch", "layer")
INITS = (  # of torch.nn.init; "default" is what the layer itself does
    *("default", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal"),
    *("orthogonal", "normal", "uniform", "trunc_normal", "zeros"),
)
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # of an answer that is known as a distribution
