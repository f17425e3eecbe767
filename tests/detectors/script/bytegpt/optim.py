"""What turns gradients into steps: parameter groups, the rate at each step, clipping, checkpoints."""

import math

import torch


def split_parameters(model):
    """Matrices decay; biases, LayerNorms and nothing else do not."""
    decay, plain = [], []
    for _, p in model.named_parameters():
        if p.requires_grad:
            (decay if p.ndim > 1 else plain).append(p)
    return decay, plain


def make_optimizer(model, args):
    decay, plain = split_parameters(model)
    groups = [
        {"params": decay, "weight_decay": args.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), eps=1e-8)


def rate_at(step, args):
    """Linear warm-up over `warmup` updates, then a cosine to a tenth; step counts from 0."""
    low = args.lr / 10
    if step < args.warmup:
        return args.lr * (step + 1) / args.warmup
    done = (step - args.warmup) / max(1, args.updates - args.warmup)
    return low + 0.5 * (args.lr - low) * (1 + math.cos(math.pi * min(1.0, done)))


def set_rate(optimizer, rate):
    for g in optimizer.param_groups:
        g["lr"] = rate


def clip(params, limit):
    """Scales all gradients together so that their norm is at most `limit`; returns the norm before."""
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(factor)
    return norm.item()


def save(path, model, optimizer, sampler, step):
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "sampler": sampler.state(),
            "rng": torch.get_rng_state(),
            "step": step,
        },
        path,
    )


def load(path, model, optimizer, sampler):
    """Continues a run: returns the number of updates that were made."""
    ckpt = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(ckpt["model"])
    optimizer.load_state_dict(ckpt["optimizer"])
    sampler.restore(ckpt["sampler"])
    torch.set_rng_state(ckpt["rng"])
    return ckpt["step"]
