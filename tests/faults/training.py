"""Faults of the optimizer, the schedule, memory, metrics, and of several processes seen from one."""

from andon.verify.faults.inject import Fault

FAULTS = (
    # ------------------------------------------------------------------------------------------ optimizer
    Fault(
        id="opt-decay-on-norms",
        area="optimizer",
        status="historical",
        source="huggingface/transformers#35927; deepspeedai/DeepSpeedExamples#755; Lightning-AI/lit-llama#254",
        symptom="Norms are in no group without decay, and their gains shrink.",
        where="andon.core:build_optimizer",
        before='{"params": vectors, "weight_decay": 0.0}',
        after='{"params": vectors, "weight_decay": training.weight_decay}',
    ),
    Fault(
        id="opt-bias-correction-missing",
        area="optimizer",
        status="pattern",
        source="",
        symptom="Adam's moments are used as they are: the first steps have the wrong size.",
        where="andon.core:build_optimizer",
        before="torch.zeros((), device=parameter.device)",
        after="torch.full((), 1e6, device=parameter.device)",
    ),
    Fault(
        id="opt-eps-inside-sqrt",
        area="optimizer",
        status="pattern",
        source="",
        symptom="Epsilon stands under the root, and so counts as its own root: small gradients hardly move a weight.",
        where="andon.core:build_optimizer",
        before=(
            "optimizer = torch.optim.AdamW(\n"
            '    [group for group in groups if group["params"]],\n'
            "    lr=training.learning_rate,\n"
            "    betas=(training.beta1, training.beta2),\n"
            "    eps=training.eps,\n"
            "    fused=True,\n"
            ")"
        ),
        after=(
            "class AdamW(torch.optim.AdamW):\n"
            "    @torch.no_grad()\n"
            "    def step(self) -> None:\n"
            "        for group in self.param_groups:\n"
            "            for p in (each for each in group['params'] if each.grad is not None):\n"
            "                state, (one, two) = self.state[p], group['betas']\n"
            "                scale = getattr(self, 'grad_scale', None)\n"
            "                grad = p.grad if scale is None else p.grad / scale\n"
            "                state['step'] += 1\n"
            "                state['exp_avg'].lerp_(grad, 1 - one)\n"
            "                state['exp_avg_sq'].mul_(two).addcmul_(grad, grad, value=1 - two)\n"
            "                mean = state['exp_avg'] / (1 - one ** state['step'])\n"
            "                square = state['exp_avg_sq'] / (1 - two ** state['step'])\n"
            "                p.mul_(1 - group['lr'] * group['weight_decay'])\n"
            "                p.addcdiv_(mean, (square + group['eps']).sqrt(), value=-group['lr'])\n"
            "\n"
            "optimizer = AdamW(\n"
            '    [group for group in groups if group["params"]],\n'
            "    lr=training.learning_rate,\n"
            "    betas=(training.beta1, training.beta2),\n"
            "    eps=training.eps,\n"
            "    fused=True,\n"
            ")"
        ),
    ),
    Fault(
        id="opt-stale-param-refs",
        area="optimizer",
        status="historical",
        source="pytorch/pytorch#104336; huggingface/accelerate#2665",
        symptom="The optimizer holds the parameters from before the model was transformed; the loss stays flat.",
        where="andon.core:initial_state_of",
        before="return TrainState(model, build_optimizer(model, config.training), loss_scale=scale)",
        after=(
            "import copy\n"
            "\n"
            "return TrainState(copy.deepcopy(model), build_optimizer(model, config.training), loss_scale=scale)"
        ),
    ),
    Fault(
        id="opt-group-empty",
        area="optimizer",
        status="historical",
        source="huggingface/peft#3503; bitsandbytes-foundation/bitsandbytes#1869",
        symptom="A group that asks parameters for their module's type is empty, and what belongs there is not trained.",
        where="andon.core:build_optimizer",
        before="vectors = [parameter for parameter in trainable if parameter.dim() < 2]",
        after="vectors = [parameter for parameter in trainable if isinstance(parameter, nn.RMSNorm)]",
    ),
    # ------------------------------------------------------------------------------------------ schedule
    Fault(
        id="sched-lr-compounds",
        area="schedule",
        status="historical",
        source="Lightning-AI/litgpt#1435",
        symptom="Each step's rate is computed from the one before it, and collapses.",
        where="andon.core:train",
        before="rate = learning_rate(state.step, steps, config.training.learning_rate, config.schedule)",
        after='rate = learning_rate(state.step, steps, state.optimizer.param_groups[0]["lr"], config.schedule)',
    ),
    Fault(
        id="sched-warmup-zero-first",
        area="schedule",
        status="historical",
        source="karpathy/nanoGPT#578",
        symptom="The first step has rate 0: its batch is wasted.",
        where="andon.core:learning_rate",
        before="return peak * (step + 1) / warmup",
        after="return peak * step / warmup",
    ),
    Fault(
        id="sched-not-checkpointed",
        area="schedule",
        status="historical",
        source="pytorch/torchtitan#275; alibaba/TorchEasyRec#664; lightly-ai/lightly-train#301",
        symptom="The schedule starts again after a resume, warm-up and all.",
        where="andon.core:_restore_counters",
        before="state.step = manifest.step",
        after="",
    ),
    Fault(
        id="sched-cosine-rises",
        area="schedule",
        status="pattern",
        source="",
        symptom="Beyond the last step the cosine rises again, and a long run diverges late.",
        where="andon.core:decay_progress",
        before="return min(step - warmup, decay_steps), decay_steps",
        after="return step - warmup, decay_steps",
    ),
    # ------------------------------------------------------------------------------------------ memory
    Fault(
        id="mem-loss-retained",
        area="memory",
        status="historical",
        source="huggingface/transformers#6999; BatsResearch/labelmodels#4; google/brax#152",
        symptom="A running loss keeps every step's graph: memory grows until it is gone.",
        where="andon.core:accumulate_gradients",
        before="total += part.detach().cpu()",
        after=(
            "total += part.detach().cpu()\nstate.model.running_loss = getattr(state.model, 'running_loss', 0.0) + part"
        ),
    ),
    Fault(
        id="mem-memmap-growth",
        area="memory",
        status="historical",
        source="karpathy/nanoGPT 5156fef9",
        symptom="A map that lives as long as the run keeps every page it ever touched.",
        where="andon.core:read_tokens",
        before='tokens[here] = np.memmap(path, store.dtype, mode="r")[offsets[here]]',
        after=(
            'kept = read_tokens.__dict__.setdefault(path, np.memmap(path, store.dtype, mode="r"))\n'
            "tokens[here] = kept[offsets[here]]"
        ),
        test="tests/core/test_shards.py::test_no_shard_stays_mapped",
    ),
    # ------------------------------------------------------------------------------------------ several processes
    Fault(
        id="dist-loss-world-size",
        area="distributed",
        status="transposed",
        source="pytorch/torchtune#2172",
        symptom="What is divided by all tokens already is averaged once more over its parts: gradients are too small.",
        where="andon.core:accumulate_gradients",
        before="part = loss(state.model, _to_device(batch, device), tokens)",
        after="part = loss(state.model, _to_device(batch, device), tokens) / len(micro_batches)",
    ),
    Fault(
        id="dist-val-mean-of-sums",
        area="distributed",
        status="transposed",
        source="pytorch/torchtitan#2366",
        symptom="The validation loss is divided by all tokens, and then by the number of its parts.",
        where="andon.core:validate",
        before="return total / tokens, tokens",
        after="return total / tokens / 2, tokens  # two parts",
    ),
    # ------------------------------------------------------------------------------------------ metrics
    Fault(
        id="metric-eval-mean-of-means",
        area="metrics",
        status="historical",
        source="huggingface/transformers#41898, #24839; keras-team/keras-hub#2958",
        symptom="The validation loss is the mean of batches' means: it depends on how the data is cut.",
        where="andon.core:validate",
        before=(
            "with torch.no_grad(), autocast(dtype, device):\n"
            "    total += float(loss(model, _to_device(batch, device), tokens=1))\n"
            "tokens += int((batch.labels_BT != IGNORE).sum())"
        ),
        after=(
            "with torch.no_grad(), autocast(dtype, device):\n"
            "    total += float(loss(model, _to_device(batch, device)))\n"
            "tokens += 1"
        ),
    ),
    Fault(
        id="metric-tied-params",
        area="metrics",
        status="historical",
        source="pytorch/torchtitan#3225",
        symptom="A tied head is subtracted although it was never counted: too few parameters, and a wrong MFU.",
        where="andon.core:count_parameters",
        before=(
            "return ParameterCounts(embedding, attention, mlp, norms, head, embedding + attention + mlp + norms + head)"
        ),
        after=(
            "twice = embedding if shape.tied else 0\n"
            "total = embedding + attention + mlp + norms + head - twice\n"
            "return ParameterCounts(embedding, attention, mlp, norms, head, total)"
        ),
        test="tests/core/test_sizes.py::test_parameters_by_part_are_those_of_the_built_model",
    ),
    Fault(
        id="metric-gradnorm-postclip",
        area="metrics",
        status="transposed",
        source="volcengine/verl#2282",
        symptom="The logged norm is the clipped one: no spike is ever seen.",
        where="andon.core:train",
        before="yield StepRecord(state.step, epoch, total, norm, rate, tokens, not finite, dict(seconds))",
        after=(
            "norm = min(norm, config.training.grad_clip)\n"
            "yield StepRecord(state.step, epoch, total, norm, rate, tokens, not finite, dict(seconds))"
        ),
    ),
)
