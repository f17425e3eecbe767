"""Pictures: a vision transformer, CNNs with BatchNorm, a ResNet, a U-Net for masks, a masked autoencoder."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from andon.verify import Subject

SOURCE = "written for this corpus"


def images(generator: torch.Generator, count: int = 8, size: int = 16, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Each class is a stripe at another height."""
    y = torch.randint(classes, (count,), generator=generator)
    x = 0.3 * torch.randn(count, 3, size, size, generator=generator)
    for image, kind in zip(x, y.tolist(), strict=True):
        image[:, kind * size // classes] += 1.5
    return x, y


def classified(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


# -------------------------------------------------------------------------------------------------------------- ViT
class ViT(nn.Module):
    """A class token before the patches."""

    def __init__(self, width: int = 32, depth: int = 2, classes: int = 5) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 17, width).normal_(std=0.02))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes)."""
        patches = self.patch(image).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        return self.head(self.blocks(x)[:, 0])


def vit() -> Subject:
    """The head starts at zero; one cycle of rates."""

    def validate(model: nn.Module, batches: list[Any]) -> float:
        was_training = model.training
        model.eval()
        total, count = 0.0, 0
        with torch.inference_mode():
            for x, y in batches:
                total += nn.functional.cross_entropy(model(x), y, reduction="sum").item()
                count += len(y)
        model.train(was_training)
        return total / count

    return Subject(
        name="vit",
        model=ViT,
        batch=images,
        loss=classified,
        causal=False,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=100),
        validate=validate,
    )


# -------------------------------------------------------------------------------------------------------------- CNN
class ConvNet(nn.Module):
    """As in many a first lesson, with BatchNorm and dropout."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout(0.25)
        self.fc1, self.fc2 = nn.Linear(16 * 4 * 4, 32), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Log probabilities."""
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        x = torch.relu(self.fc1(self.drop(torch.flatten(x, 1))))
        return torch.log_softmax(self.fc2(x), dim=1)


def cnn() -> Subject:
    """Negative log likelihood; the rate falls in steps."""
    return Subject(
        name="cnn", model=ConvNet, batch=images, causal=False,
        loss=lambda model, batch: nn.functional.nll_loss(model(batch[0]), batch[1]),
        optimizer=lambda model: torch.optim.Adadelta(model.parameters(), lr=1.0),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.7),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- ResNet
class BasicBlock(nn.Module):
    """Two convolutions and a way around; the last norm's scale starts at zero."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Half as high and wide where the stride is two."""
        out = self.bn1(self.conv1(x)).relu_()
        return (self.bn2(self.conv2(out)) + self.downsample(x)).relu_()


class ResNet(nn.Module):
    """For small pictures."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.layers = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 16, 2), BasicBlock(16, 32, 2))
        self.fc = nn.Linear(32, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.fc(self.layers(self.stem(x)).mean((2, 3)))


def resnet() -> Subject:
    """Nesterov's momentum; labels smoothed, pictures mixed up in pairs."""

    def batch(generator: torch.Generator) -> dict[str, Any]:
        x, y = images(generator)
        order, share = torch.randperm(len(y), generator=generator), 0.8
        return {"x": share * x + (1 - share) * x[order], "y": y, "other": y[order], "share": share}

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        criterion, logits = nn.CrossEntropyLoss(label_smoothing=0.1), model(batch["x"])
        return batch["share"] * criterion(logits, batch["y"]) + (1 - batch["share"]) * criterion(logits, batch["other"])

    return Subject(
        name="resnet", model=ResNet, batch=batch, loss=loss, causal=False, random_augmentation=True,
        optimizer=lambda model: torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        ),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [40, 80], gamma=0.1),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- masks of pictures
class UNet(nn.Module):
    """Down, up, and across; GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda i, o: nn.Sequential(  # noqa: E731 - four times
            nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(4, o), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU()
        )
        self.down1, self.down2, self.bottom = block(3, 8), block(8, 16), block(16, 16)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.join2, self.join1 = block(32, 16), block(16, 8)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A logit a pixel."""
        a = self.down1(x)
        b = self.down2(nn.functional.max_pool2d(a, 2))
        c = self.up2(self.bottom(nn.functional.max_pool2d(b, 2)))
        d = self.up1(self.join2(torch.cat([b, c], 1)))
        return self.out(self.join1(torch.cat([a, d], 1)))


@dataclass
class Masked:
    """Pictures and the pixels that matter."""

    image: Tensor
    mask: Tensor


def segmentation() -> Subject:
    """Binary cross-entropy and Dice."""

    def batch(generator: torch.Generator) -> Masked:
        image = torch.randn(3, 3, 16, 16, generator=generator)
        mask = torch.zeros(3, 1, 16, 16)
        for row, (top, left) in enumerate(torch.randint(0, 9, (3, 2), generator=generator).tolist()):
            mask[row, :, top : top + 7, left : left + 6] = 1.0
        return Masked(image + mask, mask)

    def loss(model: nn.Module, batch: Masked) -> Tensor:
        logits = model(batch.image)
        p = logits.sigmoid()
        overlap = 2 * (p * batch.mask).sum((1, 2, 3)) + 1.0
        dice = 1 - overlap / (p.sum((1, 2, 3)) + batch.mask.sum((1, 2, 3)) + 1.0)
        return nn.functional.binary_cross_entropy_with_logits(logits, batch.mask) + dice.mean()

    return Subject(name="segmentation", model=UNet, batch=batch, loss=loss, causal=False)


# ------------------------------------------------------------------------------------------------ masked autoencoder
class MaskedAutoencoder(nn.Module):
    """He et al. 2022: three of four patches are hidden, and what is rebuilt is compared there only."""

    def __init__(self, width: int = 24, patches: int = 16, size: int = 48) -> None:
        super().__init__()
        body = lambda: nn.TransformerEncoder(  # noqa: E731 - twice
            nn.TransformerEncoderLayer(width, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True), 1,
            nn.LayerNorm(width), enable_nested_tensor=False,
        )  # fmt: skip
        self.embed, self.rebuild = nn.Linear(size, width), nn.Linear(width, size)
        self.encoder, self.decoder = body(), body()
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.places = nn.Parameter(torch.randn(patches, width) * 0.02)
        self.places_out = nn.Parameter(torch.randn(patches, width) * 0.02)

    def forward(self, image: Tensor) -> Tensor:
        """The loss."""
        patches = nn.functional.unfold(image, 4, stride=4).mT
        rows, count, _ = patches.shape
        order = torch.rand(rows, count, device=image.device).argsort(1)
        visible = order[:, : count // 4]
        take = lambda x, where: x.gather(1, where[..., None].expand(-1, -1, x.shape[-1]))  # noqa: E731
        encoded = self.encoder(take(self.embed(patches) + self.places, visible))
        full = self.mask_token.expand(rows, count, -1)
        full = full.scatter(1, visible[..., None].expand_as(encoded), encoded)
        rebuilt = self.rebuild(self.decoder(full + self.places_out))
        aim = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        hidden = torch.ones(rows, count, device=image.device).scatter(1, visible, 0.0)
        return ((rebuilt - aim).square().mean(-1) * hidden).sum() / hidden.sum()


# -------------------------------------------------------------------------------------- weights as length and direction
class WeightNormed(nn.Module):
    """Super-resolution by pixel shuffle, with weight norm in place of BatchNorm (WDSR)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = weight_norm(nn.Conv2d(3, 12, 3, padding=1))
        self.body = nn.Sequential(
            weight_norm(nn.Conv2d(12, 24, 1)), nn.ReLU(inplace=True), weight_norm(nn.Conv2d(24, 12, 3, padding=1))
        )
        self.tail = weight_norm(nn.Conv2d(12, 12, 3, padding=1))
        self.skip = weight_norm(nn.Conv2d(3, 12, 5, padding=2))
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, low: Tensor) -> Tensor:
        """Twice as high and wide."""
        x = self.head(low)
        return self.shuffle(self.tail(x + self.body(x)) + self.skip(low))


def super_resolution() -> Subject:
    """Mean absolute error against the picture that was made smaller."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        coarse = torch.rand(4, 3, 4, 4, generator=generator)
        high = nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False)
        return {"high": high, "low": nn.functional.avg_pool2d(high, 2)}

    return Subject(
        name="weight norm", model=WeightNormed, batch=batch, causal=False,
        loss=lambda model, batch: nn.functional.l1_loss(model(batch["low"]), batch["high"]),
        optimizer=lambda model: torch.optim.Adamax(model.parameters(), lr=2e-3),
    )  # fmt: skip


SUBJECTS = {
    "vit": vit,
    "cnn": cnn,
    "resnet": resnet,
    "segmentation": segmentation,
    "masked autoencoder": lambda: Subject(
        name="masked autoencoder", model=MaskedAutoencoder, batch=lambda generator: images(generator)[0],
        loss=lambda model, batch: model(batch), causal=False, random_augmentation=True,
    ),
    "weight norm": super_resolution,
}  # fmt: skip
