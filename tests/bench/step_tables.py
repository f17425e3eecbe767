"""Tables of a training step: its time and memory, beside other implementations and under each method."""

import json
from pathlib import Path
from typing import Any

from andon.core.config import load_config
from andon.core.memory import adapter_sizes, sizes
from tests.bench.markdown import gb, interval, mb, ms, number, table

BENCH = Path("reports/baselines/bench.json")
SHIPPED = ("tiny", "small", "124m", "1b", "7b")
COMPARED = ("124m", "1b", "7b")
METHODS = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}
PEER_NAMES = {"lora": "transformers + peft", "qlora": "peft + bitsandbytes"}
SPEEDS = {"bitsandbytes": "the speed of bitsandbytes", "gather": "that of a plain table gather"}
LEARNED = (("before", ".4f"), ("after", ".4f"), ("fall_percent", ".1f"))
OURS = "ours"


def speed(bench: dict[str, Any]) -> str:
    """Milliseconds by phase, tokens per second, and the ratio to the matrix products, an implementation a row."""
    tokens = bench["workload"]["rows"] * bench["workload"]["length"]
    rows = []
    for name, seconds in bench["seconds"].items():
        after = seconds["clip"] + seconds["optimizer"]
        times = [seconds["forward"], seconds["backward"], after, seconds["step"]]
        ratio = f"{bench['over_products'][name]['ratio']:.3f}"
        rows.append([_title(bench, name), *map(ms, times), f"{tokens / seconds['step']:.0f}", ratio])
    alone = bench["seconds"][OURS]["products"]
    rows.append(["matrix products", "", "", "", ms(alone), f"{tokens / alone:.0f}", "1.000"])
    header = ["milliseconds", "forward", "backward", "clip, AdamW", "step", "tokens/s", "over matrix products"]
    lines = [f"- Andon over {_title(bench, name)}: {interval(found)}" for name, found in bench["ours_over"].items()]
    lines = [f"- Andon over its own matrix products: {interval(bench['over_products'][OURS])}", *lines]
    return "\n".join(
        [table(header, rows), "", "Step time, paired within each round (95% interval):", "", *lines, "", _where(bench)]
    )


def memory(bench: dict[str, Any]) -> str:
    """Megabytes of a step, an implementation a row."""
    rows = []
    for name, parts in bench["memory"].items():
        state = None if parts["peak"] is None else sum(parts[part] for part in ("weights", "gradients", "optimizer"))
        share = bench["memory_over"].get(name)
        columns = [mb(parts["peak"]), mb(parts["imported"]), mb(state), mb(parts["own"])]
        rows.append([_title(bench, name), *columns, "" if name == OURS else number(share, ".2f")])
    header = ["megabytes", "peak", "imports", "weights, gradients, AdamW", "the rest", "ours over it"]
    return table(header, rows)


def plan() -> str:
    """Gigabytes that full fine-tuning of each shipped shape holds at a step's peak, one row of its own length."""
    rows = []
    for name in SHIPPED:
        config = load_config(Path(f"configs/{name}.toml"))
        shape, step = sizes.shape_of(config), sizes.step_of(config)
        peak = sizes.peak_memory(shape, step)
        rest = peak.activations + peak.head + peak.other
        held = [peak.weights, peak.gradients, peak.optimizer, rest, peak.total]
        rows.append([name, f"{sizes.count_parameters(shape).total:,}", f"{step.rows} x {step.length}", *map(gb, held)])
    header = ["gigabytes", "parameters", "batch", "weights", "gradients", "AdamW", "the rest", "at the peak"]
    return (
        f'{table(header, rows)}\n\nComputed by `andon plan configs/NAME.toml`; "the rest" is activations and the head.'
    )


def adapters(bench: dict[str, Any]) -> str:
    """Milliseconds and megabytes of a step under each method, ours and the peer's, full training's beside them."""
    rows = [_full_row(json.loads(BENCH.read_text(encoding="utf-8")))] if BENCH.exists() else []
    lines = []
    for method, each in bench["methods"].items():
        title, over = METHODS[method], each["over_products"]
        for name, seconds in each["seconds"].items():
            memory = each["memory"][name]
            who = "Andon" if name == OURS else PEER_NAMES[method]
            sizes_of = [mb(memory[part]) for part in ("weights", "peak")]
            ratio = f"{over[name]['ratio']:.3f}"
            rows.append([f"{who}, {title}", ms(seconds["step"]), ratio, *sizes_of, mb(each["live"][name])])
        lines.append(f"- {title}, Andon over its products: {interval(over[OURS])}")
        lines.append(f"- {title}, Andon over {PEER_NAMES[method]}: {interval(each['ours_over'])}")
        shares = [number(each[key], ".2f") for key in ("memory_over", "live_over")]
        lines.append(f"- {title}, our memory over theirs: {shares[0]} of the rest, {shares[1]} of all tensors")
    header = ["one training step", "step ms", "over matrix products", "parameters MB", "peak MB", "tensors MB"]
    return "\n".join([table(header, rows), "", *lines, "", _where(bench)])


def _full_row(bench: dict[str, Any]) -> list[str]:
    memory, ratio = bench["memory"][OURS], f"{bench['over_products'][OURS]['ratio']:.3f}"
    return ["Andon, full", ms(bench["seconds"][OURS]["step"]), ratio, mb(memory["weights"]), mb(memory["peak"]), ""]


def nf4(bench: dict[str, Any]) -> str:
    """What 4 bits take and lose on published weights, and how fast they come back."""
    rows = []
    for kind, title in (("single", "NF4"), ("double", "NF4, double quantization")):
        found = bench["nf4"][kind]
        lost, beside = found["loss"] - found["loss_whole"], abs(found["loss"] - found["loss_bitsandbytes"])
        figures = [f"{found['bits']:.3f}", f"{found['file_bits']:.3f}", f"{found['relative_error']:.5f}"]
        rows.append([title, *figures, f"{lost:.4f}", f"{beside:.1e}"])
    header = [
        "SmolLM2-135M",
        "bits per parameter",
        "in the file",
        "relative error",
        "loss, nats more",
        "to bitsandbytes",
    ]
    speed = bench["nf4"]["speed"]
    beside = [f"{speed[name] / speed['ours']:.2f} x {title}" for name, title in SPEEDS.items()]
    return f"{table(header, rows)}\n\nDequantization runs at {' and '.join(beside)}: same values, medians."


def methods() -> str:
    """Gigabytes at a step's peak of each shape under each method, one row of its own length, and what is saved."""
    rows = []
    for name in COMPARED:
        config = load_config(Path(f"configs/{name}.toml"))
        step = sizes.step_of(config)
        totals = {
            method: max(snapshot.total for snapshot in adapter_sizes.snapshots_for(config, method)(step))
            for method in METHODS
        }
        saved = [f"{1 - totals[method] / totals['full']:.0%}" for method in ("lora", "qlora")]
        ranks = f"{config.lora.rank}, {config.qlora.rank}"
        rows.append([name, f"{step.rows} x {step.length}", ranks, *map(gb, totals.values()), *saved])
    header = ["gigabytes at the peak", "batch", "ranks", *METHODS.values(), "LoRA saves", "QLoRA saves"]
    return f"{table(header, rows)}\n\nComputed by `andon plan configs/NAME.toml --method METHOD`."


def learned(content: dict[str, Any]) -> str:
    """Held-out loss of SmolLM2-135M before and after each fine-tune."""
    rows = [
        [title, *(number(content[f"{method}_{key}"], form) for key, form in LEARNED)]
        for method, title in (("lora", "LoRA, the model whole"), ("qlora", "QLoRA, the model in 4 bits"))
    ]
    header = ["held-out loss, nats per token", "before", "after", "fall, %"]
    kept = f"4 bits keep {number(content['kept_share'], '.3f')} of the way from where they begin to where LoRA ends."
    how = f"Rank {content['rank']}, 200 steps (`nox -s bench -- learn adapters`)."
    return "\n".join([table(header, rows), "", kept, how])


def gpu(bench: dict[str, Any]) -> str:
    """A GPU's step beside Hugging Face's compiled one; whatever was not measured says so."""
    rows = [
        [
            name,
            number(found["step_seconds"], ".1f", 1000),
            number(found["tokens_per_second"], ",.0f"),
            number(found["model_flops_utilization"], ".1f", 100),
            number(found["peak_bytes"], ".1f", 1e-9),
        ]
        for name, found in bench["implementations"].items()
    ]
    large = bench["qlora_7b"]
    step, rate = number(large["step_seconds"], ".1f", 1000), number(large["tokens_per_second"], ",.0f")
    rows.append(["Andon, QLoRA of 7b", step, rate, "", number(large["peak_bytes"], ".1f", 1e-9)])
    header = ["one training step on a GPU", "step ms", "tokens/s", "MFU %", "peak GB"]
    return f"{table(header, rows)}\n\n{bench['device'] or 'No GPU'}, torch {bench['torch']}; `nox -s bench_gpu`."


def _title(bench: dict[str, Any], name: str) -> str:
    return "Andon" if name == OURS else bench["peers"][name].replace("==", " ")


def _where(bench: dict[str, Any]) -> str:
    work, machine = bench["workload"], bench["machine"]
    return (
        f"`124m`, {work['rows']} x {work['length']} tokens, fp32, {work['threads']} threads of "
        f"{machine['processor']}, torch {bench['torch']}, {machine['date']}:\n"
        f"{bench['rounds']} fresh processes each, in turn (`nox -s bench`)."
    )
