"""DDPM on a 2-d swiss roll. EMA of the weights is what samples are drawn from."""
import copy
import math

import torch
from torch import nn

torch.set_num_threads(1)


class Diffusion:
    def __init__(self, T=50):
        self.T = T
        self.beta = torch.linspace(1e-3, 0.15, T)
        self.alpha = 1.0 - self.beta
        self.alpha_bar = torch.cumprod(self.alpha, dim=0)

    def noisy(self, x, t, eps):
        ab = self.alpha_bar[t].unsqueeze(-1)
        return ab.sqrt() * x + (1 - ab).sqrt() * eps

    @torch.no_grad()
    def sample(self, net, n, gen):
        x = torch.randn(n, 2, generator=gen)
        for t in range(self.T - 1, -1, -1):
            eps = net(x, torch.full((n,), t))
            x = (x - self.beta[t] / (1 - self.alpha_bar[t]).sqrt() * eps) / self.alpha[t].sqrt()
            if t:
                x = x + self.beta[t].sqrt() * torch.randn(n, 2, generator=gen)
        return x


class Film(nn.Module):
    def __init__(self, dim, cond):
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.to_scale = nn.Linear(cond, 2 * dim)
        self.body = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, h, c):
        scale, shift = self.to_scale(c).chunk(2, dim=-1)
        return h + self.body(self.norm(h) * (1 + scale) + shift)


class Denoiser(nn.Module):
    def __init__(self, dim=48, cond=16, depth=2):
        super().__init__()
        self.cond = cond
        self.embed = nn.Sequential(nn.Linear(cond, cond), nn.SiLU())
        self.first = nn.Linear(2, dim)
        self.blocks = nn.ModuleList(Film(dim, cond) for _ in range(depth))
        self.last = nn.Linear(dim, 2)

    def forward(self, x, t):
        half = self.cond // 2
        freq = torch.exp(-math.log(200.0) * torch.arange(half) / half)
        arg = t.float().unsqueeze(-1) * freq
        c = self.embed(torch.cat([arg.sin(), arg.cos()], dim=-1))
        h = self.first(x)
        for b in self.blocks:
            h = b(h, c)
        return self.last(h)


def swiss_roll(n, gen):
    t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=gen))
    return torch.stack([t * torch.cos(t), t * torch.sin(t)], dim=-1) / 8.0


def update_ema(ema, net, decay):
    with torch.no_grad():
        for e, p in zip(ema.parameters(), net.parameters()):
            e.mul_(decay).add_(p, alpha=1 - decay)


def validation(net, diffusion, x):
    gen = torch.Generator().manual_seed(99)
    net.eval()
    with torch.no_grad():
        t = torch.randint(0, diffusion.T, (len(x),), generator=gen)
        eps = torch.randn(x.shape, generator=gen)
        return nn.functional.mse_loss(net(diffusion.noisy(x, t, eps), t), eps).item()


def main():
    torch.manual_seed(21)
    gen = torch.Generator().manual_seed(4)
    data, valid = swiss_roll(2000, gen), swiss_roll(500, gen)
    diffusion, net = Diffusion(), Denoiser()
    ema = copy.deepcopy(net)
    ema.requires_grad_(False)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    iterations, batch = 160, 64
    for it in range(iterations):
        net.train()
        x = data[torch.randint(0, len(data), (batch,))]
        t = torch.randint(0, diffusion.T, (batch,))
        eps = torch.randn_like(x)
        loss = (net(diffusion.noisy(x, t, eps), t) - eps).pow(2).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        update_ema(ema, net, 0.95)
        if (it + 1) % 40 == 0:
            print(f"{it + 1:4d} loss {loss.item():.4f} valid {validation(net, diffusion, valid):.4f} "
                  f"ema {validation(ema, diffusion, valid):.4f}")
    torch.save(ema.state_dict(), "ema.pt")
    pts = diffusion.sample(ema, 200, torch.Generator().manual_seed(8))
    print(f"distance to the roll {torch.cdist(pts, data).min(dim=1).values.mean():.4f}")


if __name__ == "__main__":
    main()
