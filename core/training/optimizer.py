"""AdamW with decay on matrices only, and clipping inside the fused step."""

import torch
from torch import Tensor, nn

from andon.core.config import TrainingConfig


def build_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over the trainable parameters, in two groups.

    Matrices decay; norms and other vectors do not. Shared parameters are counted once. Adam's moments are allocated
    here: allocated in the first step, they would lie between activations and fragment the memory.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.dim() >= 2]
    vectors = [parameter for parameter in trainable if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.eps,
        fused=True,
    )
    for parameter in trainable:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """The 2-norm of all gradients together, a scalar in at least fp32."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads)


def step(optimizer: torch.optim.AdamW, learning_rate: float, norm: float, clip: float, loss_scale: float) -> None:
    """One update with gradients divided by `loss_scale` and clipped to the norm `clip` (0: not clipped).

    `norm` is the norm before clipping, loss scale divided out. The division happens inside the fused kernel, by the
    two attributes that `torch.amp.GradScaler` sets, and so costs no extra pass over the gradients.
    """
    excess = norm / clip if clip and norm > clip else 1.0
    device = optimizer.param_groups[0]["params"][0].device
    divisor = torch.tensor(excess * loss_scale, device=device) if excess * loss_scale != 1 else None
    # Set by name: torch declares neither.
    setattr(optimizer, "grad_scale", divisor)  # noqa: B010 - torch declares neither
    setattr(optimizer, "found_inf", torch.zeros((), device=device))  # noqa: B010 - as above
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    delattr(optimizer, "grad_scale")
    delattr(optimizer, "found_inf")
    optimizer.zero_grad(set_to_none=True)
