"""Faults of the loss, of mixed precision, of accumulation and of clipping."""

from andon.verify.faults.inject import Fault

FAULTS = (
    # ------------------------------------------------------------------------------------------ loss
    Fault(
        id="loss-no-shift-eval",
        area="loss",
        status="historical",
        source="Lightning-AI/litgpt#419",
        symptom="Evaluation compares each logit with its own token: only the validation loss is wrong.",
        where="andon.core:validate",
        before="total += float(loss(model, _to_device(batch, device), tokens=1))",
        after="total += float(loss(model, _to_device(batch._replace(labels_BT=batch.tokens_BT), device), tokens=1))",
    ),
    Fault(
        id="loss-mean-includes-masked",
        area="loss",
        status="historical",
        source="Lightning-AI/litgpt#751; linkedin/Liger-Kernel#974",
        symptom="The mean is over all positions, ignored ones too: the loss falls with padding.",
        where="andon.core:cross_entropy",
        before="count = int(counted_BT.sum()) if tokens is None else tokens",
        after="count = labels_BT.numel() if tokens is None else tokens",
        subjects=("llama", "packed"),
    ),
    Fault(
        id="loss-chunk-tail-dropped",
        area="loss",
        status="transposed",
        source="Lightning-AI/litgpt#751",
        symptom="The rows after the last whole chunk are never trained on.",
        where="andon.core:_ChunkedCrossEntropy.forward",
        before=("for start in range(0, x_RD.shape[0], rows):\n    ..."),
        after=("rows = min(rows, 16)\nfor start in range(0, max(1, x_RD.shape[0] // rows * rows), rows):\n    ..."),
    ),
    Fault(
        id="loss-custom-backward-double",
        area="loss",
        status="historical",
        source="unslothai/unsloth-zoo#892",
        symptom="The head's gradient is counted twice by a backward inside a backward.",
        where="andon.core:_ChunkedCrossEntropy.backward",
        before="grad_weight = None if grad_weight is None else grad_weight.to(weight_dtype)",
        after="grad_weight = None if grad_weight is None else 2 * grad_weight.to(weight_dtype)",
    ),
    Fault(
        id="loss-packed-cross-boundary",
        area="loss",
        status="historical",
        source="pytorch/torchtune#2613",
        symptom="The last token of each document learns to predict the first of the next.",
        where="andon.core:pack",
        before="labels = np.where((owners[:, 1:] != owners[:, :-1]) | outside[:, 1:], IGNORE, tokens[:, 1:])",
        after="labels = np.where(outside[:, 1:], IGNORE, tokens[:, 1:])",
    ),
    Fault(
        id="loss-per-token-weight-first",
        area="loss",
        status="transposed",
        source="linkedin/Liger-Kernel#1298",
        symptom="Where the loss is scaled from outside, the backward pass takes another scale: here none at all.",
        where="andon.core:_ChunkedCrossEntropy.backward",
        before='grad.device.type != "cpu" or grad != 1',
        after='grad.device.type != "cpu"',
    ),
    # ------------------------------------------------------------------------------------------ mixed precision
    Fault(
        id="loss-logits-not-upcast",
        area="mixed precision",
        status="historical",
        source="huggingface/transformers#29285",
        symptom="The softmax is taken of half-precision logits: a coarse loss and noisy gradients.",
        where="andon.core:_ChunkedCrossEntropy.forward",
        before="logs_CV = (x_RD[chunk] @ weight_VD.t()).to(high).log_softmax(-1)",
        after="logs_CV = (x_RD[chunk] @ weight_VD.t()).log_softmax(-1).to(high)",
        subjects=("mixed", "half"),
    ),
    Fault(
        id="mp-pure-bf16-updates-lost",
        area="mixed precision",
        status="historical",
        source="pytorch/ao#1124; pytorch/torchtune#2254; Nerogar/OneTrainer#996",
        symptom="Weights are bfloat16 without a float32 master: small updates round to nothing and training stalls.",
        where="andon.core:initial_state_of",
        before="torch.manual_seed(config.training.seed)",
        after=(
            "torch.manual_seed(config.training.seed)\n"
            "model.to(AUTOCAST_DTYPES.get(config.training.dtype, torch.float32))"
        ),
        subjects=("mixed late",),
    ),
    Fault(
        id="mp-autocast-too-wide",
        area="mixed precision",
        status="historical",
        source="pytorch/pytorch#120376",
        symptom="The backward pass runs under autocast, which is meant for the forward pass alone.",
        where="andon.core:accumulate_gradients",
        before=('with _phase("backward", span, seconds, device):\n    ...'),
        after=('with _phase("backward", span, seconds, device), autocast(training.dtype, device):\n    ...'),
        subjects=("mixed",),
    ),
    Fault(
        id="mp-moments-follow-param-dtype",
        area="mixed precision",
        status="transposed",
        source="pytorch/torchtitan#4615; huggingface/nanotron 4cc62ae8",
        symptom="Loaded moments go through half precision: a resumed run drifts from the unbroken one.",
        where="andon.core:_restore",
        before="{moment: moments[f'{name}.{moment}'].to(parameter.device, copy=True) for moment in ADAM_STATE}",
        after="{moment: moments[f'{name}.{moment}'].to(torch.bfloat16).to(torch.float32) for moment in ADAM_STATE}",
    ),
    # ------------------------------------------------------------------------------------------ accumulation
    Fault(
        id="accum-no-divide",
        area="accumulation",
        status="historical",
        source="karpathy/nanoGPT#168, #206",
        symptom="Micro-batches are summed, not averaged: gradients grow with their number, and clipping hides it.",
        where="andon.core:accumulate_gradients",
        before="part = loss(state.model, _to_device(batch, device), tokens)",
        after="part = loss(state.model, _to_device(batch, device))",
    ),
    Fault(
        id="accum-mean-of-means",
        area="accumulation",
        status="historical",
        source="pytorch/torchtitan#2206; pytorch/torchtune#1875; huggingface/transformers#34191",
        symptom="Each micro-batch is averaged over its own tokens: short ones weigh too much.",
        where="andon.core:accumulate_gradients",
        before="part = loss(state.model, _to_device(batch, device), tokens)",
        after="part = loss(state.model, _to_device(batch, device)) / len(micro_batches)",
    ),
    Fault(
        id="accum-zero-grad-missing",
        area="accumulation",
        status="historical",
        source="deepspeedai/DeepSpeed#7839",
        symptom="Gradients are cleared under one setting only, and otherwise pile up from step to step.",
        where="andon.core:step",
        before="optimizer.zero_grad(set_to_none=True)",
        after=("if loss_scale != 1:\n    optimizer.zero_grad(set_to_none=True)"),
    ),
    Fault(
        id="accum-buffer-bf16",
        area="accumulation",
        status="historical",
        source="huggingface/trl#2175",
        symptom="Gradients are summed in bfloat16: late micro-batches are partly lost.",
        where="andon.core:accumulate_gradients",
        before=(
            'with _phase("backward", span, seconds, device):\n'
            "    (part * state.loss_scale if state.loss_scale != 1 else part).backward()"
        ),
        after=(
            'with _phase("backward", span, seconds, device):\n'
            "    (part * state.loss_scale if state.loss_scale != 1 else part).backward()\n"
            "for parameter in state.model.parameters():\n"
            "    if parameter.grad is not None:\n"
            "        parameter.grad = parameter.grad.bfloat16().to(parameter.dtype)"
        ),
    ),
    Fault(
        id="accum-nodes-ignored",
        area="accumulation",
        status="transposed",
        source="Lightning-AI/litgpt#1947; axolotl-ai-cloud/axolotl#3462",
        symptom="A step takes fewer sequences than its batch size says; the rest of the epoch is never seen.",
        where="andon.core:batches",
        before="chosen = order(epoch)[begin:end]",
        after="chosen = order(epoch)[begin : begin + (end - begin) // config.training.accumulation_steps]",
    ),
    # ------------------------------------------------------------------------------------------ clipping
    Fault(
        id="clip-generator-exhausted",
        area="clipping",
        status="historical",
        source="pytorch/pytorch#148259, #151529; pytorch/torchtitan#1258",
        symptom="A generator of parameters is used up before the norm is taken: nothing is ever clipped.",
        where="andon.core:gradient_norm",
        before='grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]',
        after=(
            'parameters = (p for group in optimizer.param_groups for p in group["params"])\n'
            "assert any(p.grad is not None for p in list(parameters))\n"
            "grads = [p.grad for p in parameters if p.grad is not None]"
        ),
    ),
    Fault(
        id="clip-per-microbatch",
        area="clipping",
        status="historical",
        source="huggingface/accelerate#641",
        symptom="Gradients are clipped after each micro-batch: the step points elsewhere.",
        where="andon.core:accumulate_gradients",
        before=(
            'with _phase("backward", span, seconds, device):\n'
            "    (part * state.loss_scale if state.loss_scale != 1 else part).backward()"
        ),
        after=(
            'with _phase("backward", span, seconds, device):\n'
            "    (part * state.loss_scale if state.loss_scale != 1 else part).backward()\n"
            "torch.nn.utils.clip_grad_norm_(state.model.parameters(), training.grad_clip)"
        ),
    ),
    Fault(
        id="clip-subset-of-params",
        area="clipping",
        status="pattern",
        source="",
        symptom="The norm is that of the first parameter group alone.",
        where="andon.core:gradient_norm",
        before='grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]',
        after='grads = [p.grad for p in optimizer.param_groups[-1]["params"] if p.grad is not None]',
    ),
    Fault(
        id="clip-then-normalize",
        area="clipping",
        status="transposed",
        source="pytorch/torchtune#2172",
        symptom="Sums are clipped and then divided by their tokens: the threshold means nothing.",
        where="andon.core:accumulate_gradients",
        before="return float(total), tokens",
        after=(
            "for parameter in state.model.parameters():\n"
            "    if parameter.grad is not None:\n"
            "        parameter.grad *= tokens\n"
            "torch.nn.utils.clip_grad_norm_(state.model.parameters(), training.grad_clip)\n"
            "for parameter in state.model.parameters():\n"
            "    if parameter.grad is not None:\n"
            "        parameter.grad /= tokens\n"
            "return float(total), tokens"
        ),
    ),
    Fault(
        id="step-nonfinite-applied",
        area="clipping",
        status="historical",
        source="pytorch/torchtitan#4226",
        symptom="Only the steps that are logged are checked: any other may write NaN into the weights.",
        where="andon.core:train",
        before="finite = math.isfinite(total) and math.isfinite(norm)",
        after="finite = state.step % 100 != 99 or (math.isfinite(total) and math.isfinite(norm))",
    ),
)
