"""How training begins: weights from the seed alone, alike in like layers, and a first loss of ln V.

Legend: V vocab.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from andon.verify.access.calls import new_batch, new_model, precise
from andon.verify.access.larger_weights import is_drawn_matrix
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.answers import answer, any_batch, require_cross_entropy
from andon.verify.observation.cross_entropy import loss_alternatives
from andon.verify.observation.parameters import trainable
from andon.verify.observation.perturb import is_fresh, logits_eval, require_fresh
from andon.verify.observation.tolerances import distance, rounding
from andon.verify.observation.uses import Uses
from andon.verify.subject import Subject

LARGEST_EXCESS = 2.0  # nats above ln V: logits of std 2
SIGMAS = 6.0
SPREAD = 0.05  # of std between layers, beyond sampling
FEWEST = 256  # entries whose std says something
HUGE = 1e3
LARGEST_TABLE = 2.0
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
        if not distance(one, other) <= rounding(one):
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

    A role is one place in each of several modules of one type; what another seed leaves as it is was not drawn.

    Silent because training repairs most initializations, at a price that no one sees.

    Look at the order in which initializations run, at the names or types that they pick, and at copied layers.

    Yellow alone, as a std that is neither one nor steady, or a layer that begins as the one before, may be meant.

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
    drawn, roles = _drawn(subject, model), _roles(model)
    for tensors in roles:
        _require_different({name: each for name, each in tensors.items() if name in drawn or not drawn})
    require_fresh(subject)
    for tensors in roles:
        _require_steady(tensors)


def _drawn(subject: Subject, model: nn.Module) -> set[str]:
    """The parameters that another seed draws otherwise."""
    other = precise(subject, new_model(subject, 1))
    pairs = zip(model.named_parameters(), other.parameters(), strict=True)
    return {name for (name, one), another in pairs if one.shape == another.shape and not torch.equal(one, another)}


def _require_steady(tensors: dict[str, Tensor]) -> None:
    """Say so where the std of one role's tensors is neither one nor changes steadily."""
    stds = [float(tensor.double().std()) for tensor in tensors.values()]
    size = min(tensor.numel() for tensor in tensors.values())
    if len(tensors) < 2 or size < FEWEST or min(stds) == 0:
        return
    if not _is_steady([math.log(std) for std in stds], SPREAD + SIGMAS / math.sqrt(2 * size)):
        raise Unusual(
            f"tensors of one role begin with std {', '.join(f'{std:.3g}' for std in stds[:6])} "
            f"({next(iter(tensors))} and on): neither one nor steadily changing; unless it is meant to be so"
        )


def check_scale(subject: Subject) -> None:
    """A new matrix's std is at most a few times 1/sqrt(width), so that sums over the width keep their size.

    Asked of trainable matrices that are seen to be multiplied as they are; a table that is looked up may have torch's
    own std of 1.

    Silent because norms hide it: the model trains, slowly, from saturated attention.

    Look at initializations that were meant to run and never do, and at torch.randn as a weight.

    Yellow alone, as wider weights may be meant, and torch's own tables begin with std 1.

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
    model, batch = precise(subject, new_model(subject)).eval(), any_batch(subject)
    with Uses(model) as uses:
        answer(subject, model, batch)
    stds = {
        name: float(parameter.detach().double().std())
        for name, parameter in trainable(model).items()
        if parameter.dim() == 2 and parameter.is_floating_point() and parameter.numel() >= FEWEST
    }
    multiplied = uses.multiplied() - uses.looked_up
    for name, std in stds.items():
        shape = tuple(model.get_parameter(name).shape)
        most = WIDEST / math.sqrt(min(shape))
        if name in multiplied and not std <= most:
            raise Unusual(f"{name} {shape} begins with std {std:.3g}; usual ones are below {most:.3g}")
        if name in uses.looked_up and std > LARGEST_TABLE:
            raise Unusual(
                f"{name} {shape} is looked up and begins with std {std:.3g}; torch's own tables begin with 1, and "
                f"usual ones are below {LARGEST_TABLE:g}"
            )


def check_loss(subject: Subject) -> None:
    """The first loss is near ln V: at most 2 nats above, and below it by no more than chance.

    Nor are the first logits all the same number. Asked where the loss is shown to be the cross-entropy of the logits.

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
    require_cross_entropy(subject)
    model, batch = precise(subject, new_model(subject)).eval(), new_batch(subject)
    *_, bare = loss_alternatives(subject)
    loss = float(answer(bare, model, batch).loss)
    logits = logits_eval(subject, model, batch).double()
    counted = int((targets_of(subject, batch) != IGNORE).sum())
    allowed = int(logits.isfinite().sum(-1).float().mean().round())  # words that a mask leaves
    words, variance = allowed, float(logits.masked_fill(~logits.isfinite(), 0).var(-1).mean())
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
    """Matrices by name, those of one role together: of one shape, at one place in each of several modules of a kind.

    Layers that follow each other as they are (a list of linear maps) may have roles of their own.
    """
    roles: dict[tuple[str, str, torch.Size], dict[str, Tensor]] = {}
    for path, layers in _repeated_layers(model):
        for layer, part in layers.items():
            for inner, parameter in _matrices(part).items():
                roles.setdefault((path, inner, parameter.shape), {})[f"{layer}.{inner}"] = parameter
    return list(roles.values())


def _repeated_layers(model: nn.Module) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    """Lists and sequences of modules of one type that have parts themselves, each by its whole name."""
    for path, parent in model.named_modules():
        if isinstance(parent, nn.ModuleList | nn.Sequential):
            prefix = f"{path}." if path else ""
            layers = {f"{prefix}{name}": part for name, part in parent.named_children() if list(part.children())}
            if len({type(part) for part in layers.values()}) == 1:
                yield path, layers


def _matrices(module: nn.Module) -> dict[str, Tensor]:
    parameters = {name: each.detach() for name, each in module.named_parameters()}
    return {name: each for name, each in parameters.items() if each.dim() >= 2 and each.is_floating_point()}


def _require_different(tensors: dict[str, Tensor]) -> None:
    """Find a layer that begins with the numbers of the one before."""
    for (other, before), (name, tensor) in pairwise(tensors.items()):
        if is_drawn_matrix(tensor) and torch.equal(tensor, before):
            raise Unusual(
                f"{name} and {other} begin with the same {tensor.numel()} numbers; torch advises to draw layers anew "
                "that were copied"
            )


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
