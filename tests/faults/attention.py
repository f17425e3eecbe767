"""Faults of attention masks, rotary positions, norms, blocks, tying and initial weights."""

from andon.verify.faults.inject import Fault

FAULTS = (
    # ------------------------------------------------------------------------------------------ attention masks
    Fault(
        id="attn-packed-no-docmask",
        area="attention mask",
        status="historical",
        source="huggingface/trl#784; huggingface/nanoVLM#204",
        symptom="Documents packed into one row read each other; the loss is a little worse.",
        where="andon.core:_positions_and_mask",
        before="mask_BTS = _additive_mask(same_BTS & (steps_T[:, None] >= steps_T), dtype)",
        after="mask_BTS = _additive_mask((steps_T[:, None] >= steps_T).expand_as(same_BTS), dtype)",
        subjects=("llama", "packed"),
    ),
    Fault(
        id="attn-docmask-boundary-off-by-one",
        area="attention mask",
        status="historical",
        source="swiss-ai/Megatron-LM#40",
        symptom="One token of each document is read as part of its neighbor.",
        where="andon.core:_positions_and_mask",
        before="same_BTS = documents_BT[:, :, None] == documents_BT[:, None, :]",
        after=(
            "owners_BT = torch.cat((documents_BT[:, 1:], documents_BT[:, -1:]), 1)\n"
            "same_BTS = owners_BT[:, :, None] == owners_BT[:, None, :]"
        ),
        subjects=("llama", "packed"),
    ),
    Fault(
        id="attn-causal-diagonal",
        area="attention mask",
        status="pattern",
        source="",
        symptom="Each token sees the next one; the loss is implausibly low.",
        where="andon.core:_positions_and_mask",
        before="mask_BTS = _additive_mask(same_BTS & (steps_T[:, None] >= steps_T), dtype)",
        after="mask_BTS = _additive_mask(same_BTS & (steps_T[:, None] + 1 >= steps_T), dtype)",
        subjects=("packed", "llama"),
    ),
    Fault(
        id="attn-pad-mask-ignored",
        area="attention mask",
        status="historical",
        source="Alpha-VLLM/LLaMA2-Accessory#43; ML-GSAI/LLaDA#90",
        symptom="A mask is handed to the model and never reaches attention; results depend on who shares the row.",
        where="andon.core:Attention.forward",
        before="y = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped)",
        after=(
            "y = scaled_dot_product_attention(\n"
            "    q, k, v, is_causal=q.shape[2] == k.shape[2], enable_gqa=self.grouped\n"
            ")"
        ),
        subjects=("llama", "packed"),
    ),
    Fault(
        id="attn-sdpa-causal-alignment",
        area="attention mask",
        status="historical",
        source="pytorch/pytorch#108108, #144858, #103082; Dao-AILab/flash-attention#517",
        symptom="With a cache the new token is aligned with the first key and sees no other: generated text is junk.",
        where="andon.core:Attention.forward",
        before="causal = mask is None and q.shape[2] > 1",
        after="causal = mask is None",
    ),
    Fault(
        id="attn-dropout-in-eval",
        area="attention mask",
        status="transposed",
        source="pytorch/torchtune#1803; huggingface/transformers#33844",
        symptom="Dropout goes on in evaluation, whose loss is worse and never the same twice.",
        where="andon.core:LoRALinear.forward",
        before=("if self.dropout and self.training:\n    x = dropout(x, self.dropout)"),
        after=("if self.dropout:\n    x = dropout(x, self.dropout)"),
        subjects=("lora",),
    ),
    Fault(
        id="attn-gqa-repeat-order",
        area="attention mask",
        status="historical",
        source="onnx/onnx#7274; wenet-e2e/west#121",
        symptom="Key heads are laid out whole instead of each beside its copies, so queries read another head's keys.",
        where="andon.core:Attention.forward",
        before="y = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped)",
        after=(
            "k, v = (heads.repeat(1, q.shape[1] // heads.shape[1], 1, 1) for heads in (k, v))\n"
            "y = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)"
        ),
    ),
    # ------------------------------------------------------------------------------------------ rotary positions
    Fault(
        id="rope-inv-freq-bf16",
        area="rope",
        status="historical",
        source="huggingface/transformers#29285, #29496; EleutherAI/gpt-neox#1016; KellerJordan/modded-nanogpt#39",
        symptom="Frequencies are cast with the model, and positions beyond 256 cannot be distinguished.",
        where="andon.core:Llama.hidden",
        before="rotation = rotary_angles(positions_BT, self.config, at_least_fp32(x_BTD.dtype))",
        after=(
            "frequencies = torch.tensor(rotary_frequencies(self.config), dtype=x_BTD.dtype)\n"
            "angles = (positions_BT.to(x_BTD.dtype)[..., None] * frequencies).unsqueeze(2)\n"
            "rotation = tuple(part.to(at_least_fp32(x_BTD.dtype)) for part in (angles.cos(), angles.sin()))"
        ),
        subjects=("half",),
    ),
    Fault(
        id="rope-cos-sin-downcast-before-mul",
        area="rope",
        status="historical",
        source="pytorch/torchtitan#2575",
        symptom="The rotation is computed in the activations' dtype: a small error in every layer.",
        where="andon.core:_turn",
        before="first, second = x.to(cos.dtype).chunk(2, dim=-1)",
        after=("cos, sin = cos.to(x.dtype), sin.to(x.dtype)\nfirst, second = x.chunk(2, dim=-1)"),
        subjects=("half",),
        test="tests/core/test_llama.py::test_half_precision_inputs_are_normed_and_turned_in_float32",
    ),
    Fault(
        id="rope-layout-mismatch",
        area="rope",
        status="historical",
        source="huggingface/transformers#25199; huggingface/nanotron#427; rasbt/LLMs-from-scratch#747",
        symptom="Neighbors are turned where the weights expect halves: training is fine, foreign weights are not.",
        where="andon.core:_turn",
        before=(
            "first, second = x.to(cos.dtype).chunk(2, dim=-1)\n"
            "turned = torch.cat((first * cos, second * cos), dim=-1)\n"
            "turned[..., : cos.shape[-1]].addcmul_(second, sin, value=-1)\n"
            "turned[..., cos.shape[-1] :].addcmul_(first, sin)"
        ),
        after=(
            "first, second = x.to(cos.dtype)[..., ::2], x.to(cos.dtype)[..., 1::2]\n"
            "turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)"
        ),
    ),
    Fault(
        id="rope-theta-not-passed",
        area="rope",
        status="historical",
        source="Lightning-AI/litgpt#2218; pytorch-labs/gpt-fast 8922741",
        symptom="The configured base is ignored and 10000 used; long contexts suffer, foreign weights are wrong.",
        where="andon.core:rotary_frequencies",
        before="plain = [config.rope_theta ** (-2 * i / config.head_size) for i in range(config.head_size // 2)]",
        after="plain = [10000.0 ** (-2 * i / config.head_size) for i in range(config.head_size // 2)]",
    ),
    Fault(
        id="rope-positions-modulo-wrap",
        area="rope",
        status="historical",
        source="pytorch/torchtitan#2849",
        symptom="Positions of a packed row start again inside a document: far tokens look near.",
        where="andon.core:_positions_and_mask",
        before="return steps_T - starts_BT.cummax(1).values, mask_BTS[:, None]",
        after="return (steps_T - starts_BT.cummax(1).values) % 16, mask_BTS[:, None]",
        subjects=("llama", "packed"),
    ),
    Fault(
        id="rope-cache-offset-missing",
        area="rope",
        status="historical",
        source="thunlp/Seq1F1B#6",
        symptom="With a cache every new token is turned as if it were the first: generated text is junk.",
        where="andon.core:Llama.hidden",
        before="rotation = rotary_angles(positions_BT, self.config, at_least_fp32(x_BTD.dtype))",
        after="rotation = rotary_angles(positions_BT - past, self.config, at_least_fp32(x_BTD.dtype))",
    ),
    # ------------------------------------------------------------------------------------------ norms
    Fault(
        id="norm-eps-hardcoded",
        area="norm",
        status="historical",
        source="meta-llama/llama#771; ggml-org/llama.cpp#2384, #2374; pytorch/torchtune#152",
        symptom="The configured epsilon is ignored: a small gap in perplexity.",
        where="andon.core:RMSNorm.__init__",
        before="self.eps = eps",
        after="self.eps = 1e-6",
    ),
    Fault(
        id="norm-variance-lowprec",
        area="norm",
        status="historical",
        source="meta-llama/llama#1048; linkedin/Liger-Kernel#92",
        symptom="The mean of squares is taken in half precision: errors, and infinity for large states.",
        where="andon.core:_RMSNorm.forward",
        before=(
            "high = x.to(at_least_fp32(x.dtype))\nreturn (high * _inverse_rms(high, eps)).mul_(weight_D).to(dtype)"
        ),
        after=(
            "high = x\nreturn (high * torch.rsqrt((high * high).mean(-1, keepdim=True) + eps)).mul_(weight_D).to(dtype)"
        ),
        subjects=("half",),
    ),
    Fault(
        id="norm-wrong-divisor",
        area="norm",
        status="historical",
        source="linkedin/Liger-Kernel#582",
        symptom="The mean divides by the width padded to a power of two: every normed state is too large.",
        where="andon.core:_inverse_rms",
        before="return torch.rsqrt(norm.square() / x.shape[-1] + eps)",
        after="return torch.rsqrt(norm.square() / (1 << (x.shape[-1] - 1).bit_length()) + eps)",
    ),
    Fault(
        id="norm-weight-grad-lowprec",
        area="norm",
        status="historical",
        source="linkedin/Liger-Kernel#950",
        symptom="The gain's gradient is summed over all tokens in bfloat16, and is worse the more tokens there are.",
        where="andon.core:_RMSNorm.backward",
        before="grad_weight = along.flatten(0, -2).sum(0).to(weight_D.dtype) if ctx.needs_input_grad[1] else None",
        after=(
            "grad_weight = along.flatten(0, -2).to(torch.bfloat16).sum(0).to(weight_D.dtype) if "
            "ctx.needs_input_grad[1] else None"
        ),
    ),
    # ------------------------------------------------------------------------------------------ blocks
    Fault(
        id="block-residual-twice",
        area="block",
        status="historical",
        source="huggingface/nanotron 4bb1a716, eea5b7c8",
        symptom="A block adds its input twice: states grow with depth, the loss is worse.",
        where="andon.core:Block.forward",
        before="return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))",
        after="return x_BTD + x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))",
    ),
    Fault(
        id="block-last-layer-skipped",
        area="block",
        status="pattern",
        source="",
        symptom="The last layer is never called; its weights stay as they were drawn.",
        where="andon.core:Llama.hidden",
        before="enumerate(self.model.layers)",
        after="enumerate(self.model.layers[:-1])",
    ),
    # ------------------------------------------------------------------------------------------ tying
    Fault(
        id="tie-not-aliased",
        area="tying",
        status="historical",
        source="NVIDIA-NeMo/Automodel#2511; pytorch/torchtitan#2253",
        symptom="Head and embedding are called one and are two; the checkpoint holds one: the loss jumps at resume.",
        where="andon.core:Llama.__init__",
        before="self.lm_head.weight = self.model.embed_tokens.weight",
        after="self.lm_head.weight = nn.Parameter(self.model.embed_tokens.weight.detach().clone())",
        subjects=("tied", "llama"),
    ),
    Fault(
        id="tie-init-direction",
        area="tying",
        status="historical",
        source="karpathy/nanoGPT 43b37fd5",
        symptom="The head takes the embedding's wide initial weights: the first loss is far above ln V.",
        where="andon.core:Llama.init_weights",
        before="std = base * min(1.0, math.sqrt(256 / self.config.hidden_size))",
        after=(
            "std = base * min(1.0, math.sqrt(256 / self.config.hidden_size))\n"
            "std = 1.0 if self.config.tie_word_embeddings else std"
        ),
        subjects=("tied", "llama"),
    ),
    # ------------------------------------------------------------------------------------------ initial weights
    Fault(
        id="init-not-applied",
        area="init",
        status="historical",
        source="Lightning-AI/litgpt#1162, #759",
        symptom="The model's own initialization never runs: all weights are drawn as torch draws them.",
        where="andon.core:Llama.init_weights",
        before="nn.init.normal_(parameter, std=std, generator=generator)",
        after=(
            'if name.endswith("embed_tokens.weight"):\n'
            "    nn.init.normal_(parameter, generator=generator)\n"
            "else:\n"
            "    nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)"
        ),
    ),
    Fault(
        id="init-overwritten-later",
        area="init",
        status="historical",
        source="huggingface/transformers#17877",
        symptom="The smaller weights that write into the residual stream are drawn again like all others.",
        where="andon.core:Llama.init_weights",
        before=(
            "if parameter is self.lm_head.weight:\n    std = base * min(1.0, math.sqrt(256 / self.config.hidden_size))"
        ),
        after=(
            "std = base\n"
            "if parameter is self.lm_head.weight:\n"
            "    std = base * min(1.0, math.sqrt(256 / self.config.hidden_size))"
        ),
        test="tests/core/test_llama.py::test_weights_have_their_standard_deviations",
    ),
)
