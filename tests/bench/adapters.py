"""The adapters' part of the bench: LoRA beside PEFT, QLoRA and NF4 beside PEFT with bitsandbytes."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from andon.gates.evidence import Metric
from tests.bench.environments import OURS, interpreter, worker_variables
from tests.bench.measure import SAME_LOSS, Job, Records, check_alike, run_module, take
from tests.bench.ratios import geometric_mean, over_products, paired
from tests.bench.summary import memory_parts, seconds_of, share
from tests.bench.workload import Workload

METHODS = ("lora", "qlora")
PEER = "peft"
NAMES = (OURS, PEER)


class Measured(NamedTuple):
    """Raw records: by method and implementation, and of NF4 alone."""

    times: dict[str, Records]
    memories: dict[str, Records]
    live: dict[str, Records]
    nf4: dict[str, Any]


def schedule(rounds: int, repeats: int, memory_rounds: int) -> list[Job]:
    """All four in turn, then their memory, then the bytes of their tensors."""
    turn = [(name, method) for method in METHODS for name in NAMES]
    tasks = [f"time:{repeats}"] * rounds + ["memory"] * memory_rounds + ["live"]
    return [Job(name, task, method) for task in tasks for name, method in turn]


def measure(workload: Workload, jobs: list[Job], say: Callable[[str], None]) -> Measured:
    """Everything that the adapters' figures come from.

    Raises:
        BenchError: an environment could not be built, a worker failed, or the implementations did not train alike.
    """
    records = take(workload, jobs, say)

    def of(kind: str) -> dict[str, Records]:
        return {
            method: {
                job.implementation: each
                for job, each in records.items()
                if job.method == method and job.task.startswith(kind)
            }
            for method in METHODS
        }

    times, memories, live = of("time"), of("memory"), of("live")
    for method in METHODS:
        each = {name: times[method][name] + memories[method][name] + live[method][name] for name in NAMES}
        check_alike(each, SAME_LOSS)
    say("NF4 on SmolLM2-135M, and dequantization")
    arguments = ["tests.bench.nf4", str(workload.threads)]
    variables = worker_variables(workload.threads)
    return Measured(times, memories, live, run_module("nf4", interpreter(PEER, say), arguments, variables))


def summarize(measured: Measured, workload: Workload) -> dict[str, Any]:
    """The measurements as plain data: times in seconds, memory in bytes; see `tests.bench.summary.summarize`."""
    first = measured.times[METHODS[0]][OURS]
    methods = {
        method: _method(measured.times[method], measured.memories[method], measured.live[method]) for method in METHODS
    }
    return {
        "workload": asdict(workload),
        "torch": first[0]["torch"],
        "rounds": len(first),
        "steps_a_round": len(first[0]["steps"]),
        "methods": methods,
        "nf4": measured.nf4,
    }


def metrics(summary: dict[str, Any]) -> dict[str, Metric]:
    """What `configs/gates.toml` sets thresholds on."""
    found: dict[str, Metric] = {}
    for method, each in summary["methods"].items():
        found[f"{method}_over_products"] = Metric(each["over_products"][OURS]["ratio"], "x")
        found[f"{method}_vs_peft_upper"] = Metric(each["ours_over"]["high"], "x")
    lora, qlora = (summary["methods"][method] for method in METHODS)
    found["lora_memory_vs_peft"] = Metric(lora["memory_over"], "x")
    found["qlora_live_vs_peft"] = Metric(qlora["live_over"], "x")
    for kind in ("single", "double"):
        nf4 = summary["nf4"][kind]
        found[f"nf4_error_{kind}"] = Metric(nf4["relative_error"])
        found[f"nf4_bits_{kind}"] = Metric(nf4["bits"], "bits per parameter")
        found[f"nf4_file_bits_{kind}"] = Metric(nf4["file_bits"], "bits per parameter")
        found[f"nf4_loss_difference_{kind}"] = Metric(abs(nf4["loss"] - nf4["loss_bitsandbytes"]), "nats per token")
    speed = summary["nf4"]["speed"]
    found["dequantize_vs_bitsandbytes"] = Metric(speed["bitsandbytes"] / speed["ours"], "x its speed")
    found["dequantize_vs_gather"] = Metric(speed["gather"] / speed["ours"], "x its speed")
    return found


def _method(times: Records, memories: Records, live: Records) -> dict[str, Any]:
    ratios = {name: [over_products(record["steps"], record["products"]) for record in times[name]] for name in NAMES}
    memory = {name: memory_parts(memories[name]) for name in NAMES}
    tensors = {name: live[name][0]["live"] for name in NAMES}
    return {
        "over_products": {name: geometric_mean(ratios[name])._asdict() for name in NAMES},
        "ours_over": paired(ratios[OURS], ratios[PEER])._asdict(),
        "memory_over": share(memory[OURS]["own"], memory[PEER]["own"]),
        "live_over": tensors[OURS] / tensors[PEER],
        "seconds": {name: seconds_of(times[name]) for name in NAMES},
        "memory": memory,
        "live": tensors,
    }
