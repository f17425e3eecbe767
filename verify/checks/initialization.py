"""How training begins: weights from the seed alone, alike in like layers, and a first loss of ln V.

Legend: V vocab.
"""

import math
import re
from itertools import pairwise

import torch
from torch import Tensor, nn

from andon.verify.access.calls import loss_of, new_batch, new_model
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.cross_entropy import loss_alternatives
from andon.verify.observation.perturb import is_fresh, logits_eval, precise, require_fresh
from andon.verify.subject import Subject

LARGEST_EXCESS = 2.0  # nats above ln V: logits of std 2
SIGMAS = 6.0
SPREAD = 0.05  # of std between layers, beyond sampling
FEWEST = 256  # entries whose std says something
HUGE = 1e3
WIDEST = 4.0  # times 1/sqrt(the smaller side); He's rule for ReLU has 1.4


def check_seed(subject: Subject) -> None:
    """The same seed gives the same weights.

    Silent because each run alone looks right; none can be repeated.

    Look at generators that torch.manual_seed does not reach, and at memory that nothing initializes.

    Example:
        # wrong: torch.manual_seed does not reach this generator
        rng = np.random.default_rng()
        weight = torch.from_numpy(rng.normal(0.0, 0.02, (vocab_size, dim))).float()
        self.embed = nn.Embedding.from_pretrained(weight, freeze=False)

        # right
        weight = torch.empty(vocab_size, dim).normal_(0.0, 0.02)
        self.embed = nn.Embedding.from_pretrained(weight, freeze=False)

    Reference: PyTorch documentation, Reproducibility.
    """
    first, second = new_model(subject), new_model(subject)
    for (name, given), again in zip(first.named_parameters(), second.parameters(), strict=True):
        one, other = given.nan_to_num(), again.nan_to_num()
        if not torch.equal(one, other):
            raise CheckFailed(f"with one seed {int((one != other).sum())} of {one.numel()} entries of {name} differ")


def check_finite(subject: Subject) -> None:
    """All parameters and buffers hold numbers: parameters finite ones of usual size, buffers no NaN.

    Silent because memory that nobody initialized often holds small numbers or zeros, and trains.

    Look at `torch.empty`, at models built on the meta device, and at buffers made there that are never filled.

    Example:
        # wrong: to_empty allocates memory and leaves in it whatever was there
        with torch.device("meta"):
            model = Transformer(config)
        model.to_empty(device="cuda")

        # right
        with torch.device("meta"):
            model = Transformer(config)
        model.to_empty(device="cuda")
        model.init_weights()

    Reference: PyTorch documentation, Meta device; Lightning-AI/litgpt#887.
    """
    model = new_model(subject)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise CheckFailed(f"{name} {tuple(tensor.shape)} is still on the meta device: it holds no numbers")
        if not tensor.is_floating_point():
            continue
        is_parameter = isinstance(tensor, nn.Parameter)
        wrong = ~tensor.isfinite() if is_parameter else tensor.isnan()  # masks are buffers, and hold infinities
        if bool(wrong.any()):
            raise CheckFailed(f"{int(wrong.sum())} of {tensor.numel()} entries of {name} are not finite")
        if is_parameter and tensor.numel() and float(tensor.abs().max()) > HUGE:
            raise CheckFailed(
                f"an entry of {name} is {float(tensor.abs().max()):.3g}, and usual ones are below {HUGE:g}"
            )


def check_layers(subject: Subject) -> None:
    """Matrices of one role have one std in all layers, or one that changes steadily with depth; neighbors differ.

    Silent because training repairs most initializations, at a price that no one sees.

    Look at the order in which initializations run, at the names or types that they pick, and at copied layers.

    Example:
        # wrong: TransformerEncoder copies the layer, weights included
        layer = nn.TransformerEncoderLayer(dim, heads, batch_first=True)
        encoder = nn.TransformerEncoder(layer, num_layers=12)

        # right
        layer = nn.TransformerEncoderLayer(dim, heads, batch_first=True)
        encoder = nn.TransformerEncoder(layer, num_layers=12)
        for parameter in encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    Reference: PyTorch documentation, torch.nn.TransformerEncoder.
    """
    model = precise(subject, new_model(subject))
    roles = _roles(model)
    for tensors in roles:
        _require_different(tensors)
    require_fresh(subject)
    for tensors in roles:
        stds = [float(tensor.double().std()) for tensor in tensors.values()]
        size = min(tensor.numel() for tensor in tensors.values())
        if len(tensors) < 2 or size < FEWEST or min(stds) == 0:
            continue
        if not _is_steady([math.log(std) for std in stds], SPREAD + SIGMAS / math.sqrt(2 * size)):
            raise CheckFailed(
                f"tensors of one role begin with std {', '.join(f'{std:.3g}' for std in stds[:6])} "
                f"({next(iter(tensors))} and on): neither one nor steadily changing"
            )


def check_scale(subject: Subject) -> None:
    """A new matrix's std is at most a few times 1/sqrt(width), so that sums over the width keep their size.

    Silent because norms hide it: the model trains, slowly, from saturated attention.

    Look at initializations that were meant to run and never do, and at torch.randn as a weight.

    Example:
        # wrong: entries of std 1 make sums over 1024 inputs 32 times as large as the inputs
        weight = torch.randn(1024, 1024)
        self.weight = nn.Parameter(weight)

        # right
        weight = torch.randn(1024, 1024) / math.sqrt(1024)
        self.weight = nn.Parameter(weight)

    Reference: LeCun et al. 1998, "Efficient BackProp", section 4.6.
    """
    require_fresh(subject)
    model, batch = precise(subject, new_model(subject)), new_batch(subject)
    words = logits_eval(subject, model, batch).shape[-1]
    for name, parameter in model.named_parameters():
        if parameter.dim() != 2 or not parameter.is_floating_point() or len(parameter) >= words:
            continue
        most, std = WIDEST / math.sqrt(min(parameter.shape)), float(parameter.double().std())
        if parameter.numel() >= FEWEST and not std <= most:
            raise CheckFailed(
                f"{name} {tuple(parameter.shape)} begins with std {std:.3g}; usual ones are below {most:.3g}"
            )


def check_loss(subject: Subject) -> None:
    """The first loss is near ln V: at most 2 nats above, and below it by no more than chance.

    Nor are the first logits all the same number.

    Silent because the first hundred steps repair a bad start, and because a model that sees the answer begins too
    well.

    Look at the scale of embedding and head, at which of them decides when they are tied, and at what labels reveal.

    Example:
        # wrong: the tied head gets nn.Embedding's std of 1, so logits begin with std sqrt(dim)
        self.embed = nn.Embedding(vocab_size, dim)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        self.head.weight = self.embed.weight

        # right
        self.embed = nn.Embedding(vocab_size, dim)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.02)

    Reference: Karpathy 2019, "A Recipe for Training Neural Networks" (verify loss at init).
    """
    require_fresh(subject)
    model, batch = precise(subject, new_model(subject)).eval(), new_batch(subject)
    with torch.no_grad():
        *_, bare = loss_alternatives(subject)
        loss = float(loss_of(bare, model, batch))
    logits = logits_eval(subject, model, batch).double()
    counted = int((targets_of(subject, batch) != IGNORE).sum())
    words, variance = logits.shape[-1], float(logits.var(-1).mean())
    if not counted:
        raise NotApplicable("a batch with counted labels")
    expected = math.log(words)
    if not loss <= expected + LARGEST_EXCESS:
        raise CheckFailed(
            f"the first loss is {loss:.3f}, and ln {words} is {expected:.3f}: logits begin with std "
            f"{math.sqrt(variance):.2f}"
        )
    spare = 0.1 + SIGMAS * math.sqrt((variance + 1e-4) / counted)
    if not loss >= expected - spare:
        raise CheckFailed(
            f"the first loss is {loss:.3f}, below ln {words} = {expected:.3f} by more than chance ({spare:.2f}): "
            "an untrained model knows the answers"
        )
    if is_fresh(subject) and words > 2 and float(logits.std(-1).max()) == 0:
        raise CheckFailed(f"the first logits are all {float(logits.flatten()[0]):.3g}: nothing reaches the head")


def _roles(model: nn.Module) -> list[dict[str, Tensor]]:
    """Matrices by name, those of one role together: one shape, and names that are the same up to a number."""
    roles: dict[tuple[str, torch.Size], dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and parameter.is_floating_point():
            role = re.sub(r"\d+", "#", name), parameter.shape
            roles.setdefault(role, {})[name] = parameter.detach()
    return list(roles.values())


def _require_different(tensors: dict[str, Tensor]) -> None:
    """Fail where a layer begins with the numbers of the one before."""
    for (other, before), (name, tensor) in pairwise(tensors.items()):
        is_drawn = not bool((tensor == tensor[:1]).all())  # and not computed, a row like another
        if is_drawn and torch.equal(tensor, before):
            raise CheckFailed(f"{name} and {other} begin with the same {tensor.numel()} numbers")


def _is_steady(logs: list[float], spare: float) -> bool:
    """Whether numbers are all alike, or go one way; of two, neither may be 2.5 times the other."""
    apart = max(logs) - min(logs)
    if not apart > spare:
        return True
    steps = [after - before for before, after in pairwise(logs)]
    one_way = all(step <= spare for step in steps) or all(step >= -spare for step in steps)
    return one_way and not (len(logs) == 2 and apart > math.log(2.5))


CHECKS = (
    Check("initialization.seed", check_seed),
    Check("initialization.finite", check_finite),
    Check("initialization.layers", check_layers),
    Check("initialization.scale", check_scale),
    Check("initialization.loss", check_loss),
)
