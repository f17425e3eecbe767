"""Whether an alarm names a bug's cause: it says a word of the bug's area. One rule for every tool, and for Andon."""

import re

WORDS = {
    "attention-mask": r"attention|mask|causal|future|leak|next (token|position)|padding|softmax",
    "dropout": r"dropout|eval(uation)? mode|not deterministic|two passes|stochastic",
    "positions": r"position|order of tokens",
    "rope": r"position|rope|rotary|theta",
    "norm": r"norm|eps|no gradient|unused|never (used|called)|without a gradient|does not (change|move)",
    "block": r"residual|block|layer|no gradient|unused|never (used|called)|without a gradient|depends|decoder"
    r"|padding|mask",
    "gradient-flow": r"no gradient|without a gradient|gradient (is|are) (zero|none)|detach|frozen|unused"
    r"|not (train|updat|chang)|does not (change|move)",
    "embedding-tying": r"tie|tying|tied|shared|alias",
    "init": r"initiali[sz]|at the start|uniform|first loss|standard deviation",
    "data": r"target|follows|shift|order|shuffl|epoch|copies|identity|next token",
    "loss": r"ignore|padding|mean over|divisor|normali[sz]|softmax|probabilit|own token|shift",
    "grad-accumulation": r"accumulat|zero_grad|zeroed|stale|micro-?batch|mean of means|divid|every step|each step adds",
    "clipping": r"clip",
    "optimizer": r"weight.?decay|decay|optimizer|parameter group|not (train|updat)|never (updat|mov)|moment",
    "lora": r"lora|adapter|base|frozen|trainable",
    "schedule": r"schedul|learning.?rate|warm|\blr\b|\brates?\b",
    "evaluation": r"eval|train(ing)? mode|dropout|train\(\)",
    "metrics": r"eval|metric|mean of (batch )?means|weighted|average",
    "memory": r"memory|graph|retain|detach|\.item\(\)|leak",
    "checkpoint-resume": r"resum|checkpoint|restor|state|saved",
    "diffusion": r"noise|time|diffusion|variance|target",
    "ema": r"ema|averag|copy of the weights|shadow",
    "seed": r"seed|random|noise|not deterministic|generator|reproduc",
    "preference": r"padding|pair|preference|reward|last position|rows",
    "precision": r"autocast|float16|bfloat16|half|precision|scaler|dtype",
    "generation": r"generat|cache|eval",
}


def names(area: str, text: str) -> bool:
    """Whether an alarm's text names a cause of this area.

    Raises:
        KeyError: an area without words.
    """
    return re.search(WORDS[area], text, re.IGNORECASE) is not None
