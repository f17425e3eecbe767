"""Faults of the catalogue, injected into transformers, PEFT and litgpt: real changes where they could be made."""

from andon.verify.faults.inject import Fault

LLAMA = "transformers.models.llama.modeling_llama"
MASKS = "transformers.masking_utils"
SDPA = "transformers.integrations.sdpa_attention"
LOSS = "transformers.loss.loss_utils"
TRAINER = "transformers.trainer"
LORA = "peft.tuners.lora.layer"
TUNERS = "peft.tuners.tuners_utils"
GPT = "litgpt.model"
LINEAR = "max(0.0, float(num_training_steps - current_step) / float(max(1, num_training_steps - num_warmup"

TRANSFORMERS = (
    Fault(
        id="attn-packed-no-docmask",
        area="attention mask",
        status="historical",
        source="trl#784; huggingface/nanoVLM#204",
        symptom="Packed documents in one row attend to each other.",
        where=MASKS,
        before="        packed_sequence_mask = find_packed_sequence_indices(position_ids)\n",
        after="        packed_sequence_mask = None\n",
    ),
    Fault(
        id="attn-docmask-boundary-off-by-one",
        area="attention mask",
        status="historical",
        source="swiss-ai/Megatron-LM#40",
        symptom="The first token of a document belongs to the one before.",
        where=MASKS,
        before="packed_sequence_mask = (position_diff != 1).cumsum(-1)",
        after="packed_sequence_mask = (position_diff != 1).roll(1, -1).cumsum(-1)",
    ),
    Fault(
        id="attn-causal-diagonal",
        area="attention mask",
        status="pattern",
        source="",
        symptom="Each token sees the next.",
        where=MASKS,
        before="    return kv_idx <= q_idx\n",
        after="    return kv_idx <= q_idx + 1\n",
        subjects=("llama-eager",),
    ),
    Fault(
        id="attn-pad-mask-ignored",
        area="attention mask",
        status="historical",
        source="Alpha-VLLM/LLaMA2-Accessory#43; ML-GSAI/LLaDA#90",
        symptom="Real tokens see padding.",
        where=MASKS,
        before="    if padding_mask is not None:\n        mask_function = and_masks(",
        after="    if False:\n        mask_function = and_masks(",
    ),
    Fault(
        id="attn-sdpa-causal-alignment",
        area="attention mask",
        status="historical",
        source="pytorch#108108; pytorch#144858; flash-attention#517",
        symptom="A decoded token sees only the first key of the cache.",
        where=SDPA,
        before="    is_causal = q_length > 1 and attention_mask is None and is_causal\n",
        after="    is_causal = attention_mask is None and is_causal\n",
    ),
    Fault(
        id="attn-dropout-in-eval",
        area="attention mask",
        status="historical",
        source="torchtune#1803; transformers#33844",
        symptom="Evaluation is random.",
        where=LLAMA,
        before="dropout=0.0 if not self.training else self.attention_dropout,",
        after="dropout=self.attention_dropout,",
        subjects=("llama-dropout",),
    ),
    Fault(
        id="attn-gqa-repeat-order",
        area="attention mask",
        status="historical",
        source="onnx#7274; wenet-e2e/west#121",
        symptom="Query heads read another group's keys.",
        where=SDPA,
        before="hidden_states[:, :, None, :, :].expand(batch, num_key_value_heads, n_rep, slen, head_dim)",
        after="hidden_states[:, None, :, :, :].expand(batch, n_rep, num_key_value_heads, slen, head_dim)",
    ),
    Fault(
        id="rope-theta-not-passed",
        area="rope",
        status="historical",
        source="litgpt#2218; gpt-fast 8922741",
        symptom="The configured base has no effect.",
        where=LLAMA,
        before='        base = config.rope_parameters["rope_theta"]\n',
        after="        base = 10000.0\n",
    ),
    Fault(
        id="rope-inv-freq-bf16",
        area="rope",
        status="historical",
        source="transformers#29285; transformers#29496; gpt-neox#1016",
        symptom="Far positions coincide in bfloat16.",
        where=LLAMA,
        before="position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)",
        after="position_ids[..., None].to(x.dtype) * self.inv_freq.to(device=x.device, dtype=x.dtype)",
        subjects=("llama-bf16",),
    ),
    Fault(
        id="rope-cache-offset-missing",
        area="rope",
        status="historical",
        source="thunlp/Seq1F1B#6",
        symptom="Each decoded token stands at position 0.",
        where=LLAMA,
        before="torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_seen_tokens",
        after="torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)",
    ),
    Fault(
        id="norm-eps-hardcoded",
        area="norm",
        status="historical",
        source="meta-llama/llama#771; torchtune#152; lit-llama#339",
        symptom="A small loss of quality with other people's weights.",
        where=LLAMA,
        before="        self.variance_epsilon = eps\n",
        after="        self.variance_epsilon = 1e-6\n",
    ),
    Fault(
        id="norm-variance-lowprec",
        area="norm",
        status="historical",
        source="meta-llama/llama#1048; Liger-Kernel#92",
        symptom="Large activations overflow in float16.",
        where=LLAMA,
        before="        hidden_states = hidden_states.to(torch.float32)\n        variance",
        after="        variance",
        subjects=("llama-bf16",),
    ),
    Fault(
        id="norm-wrong-divisor",
        area="norm",
        status="historical",
        source="Liger-Kernel#582",
        symptom="Norms are too small where the width is not a power of two.",
        where=LLAMA,
        before="        variance = hidden_states.pow(2).mean(-1, keepdim=True)\n",
        after=(
            "        padded = 1 << (hidden_states.shape[-1] - 1).bit_length()\n"
            "        variance = hidden_states.pow(2).sum(-1, keepdim=True) / padded\n"
        ),
    ),
    Fault(
        id="block-residual-twice",
        area="block",
        status="historical",
        source="nanotron 4bb1a716",
        symptom="A slightly worse loss.",
        where=LLAMA,
        before="        hidden_states = residual + hidden_states\n\n        # Fully Connected\n",
        after="        hidden_states = residual + residual + hidden_states\n\n        # Fully Connected\n",
    ),
    Fault(
        id="block-last-layer-skipped",
        area="block",
        status="pattern",
        source="",
        symptom="A layer that never learns.",
        where=LLAMA,
        before="self.layers[: self.config.num_hidden_layers]",
        after="self.layers[: self.config.num_hidden_layers - 1]",
    ),
    Fault(
        id="tie-not-aliased",
        area="tying",
        status="historical",
        source="NeMo Automodel#2511; torchtitan#2253",
        symptom="The head and the embedding drift apart.",
        where=LLAMA,
        before='    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}\n',
        after="    _tied_weights_keys = {}\n",
        subjects=("llama-tied",),
    ),
    Fault(
        id="init-not-applied",
        area="init",
        status="historical",
        source="litgpt#1162; litgpt#759",
        symptom="A worse start.",
        where="transformers.modeling_utils",
        before="init.normal_(module.weight, mean=0.0, std=std)\n            if module.bias is not None:\n",
        after="pass\n            if module.bias is not None:\n",
    ),
    Fault(
        id="data-window-off-by-one",
        area="data",
        status="pattern",
        source="nanoGPT's get_batch",
        symptom="A task of copying; the loss falls to nothing.",
        where=LOSS,
        before=(
            "        labels = nn.functional.pad(labels, (0, 1), value=ignore_index)\n"
            "        shift_labels = labels[..., 1:].contiguous()\n"
        ),
        after="        shift_labels = labels.contiguous()\n",
    ),
    Fault(
        id="loss-mean-includes-masked",
        area="loss",
        status="historical",
        source="litgpt#751; Liger-Kernel#974",
        symptom="The loss depends on how much padding there is.",
        where=LOSS,
        before="loss = nn.functional.cross_entropy(source, target, ignore_index=ignore_index, reduction=reduction)",
        after=(
            'loss = nn.functional.cross_entropy(source, target, ignore_index=ignore_index, reduction="none")\n'
            '    loss = loss.sum() if reduction == "sum" else loss.mean()'
        ),
    ),
    Fault(
        id="loss-logits-not-upcast",
        area="mixed precision",
        status="historical",
        source="transformers#29285",
        symptom="A loss in steps of bfloat16.",
        where=LOSS,
        before="    logits = logits.float()\n\n    if shift_labels is None:\n",
        after="    if shift_labels is None:\n",
        subjects=("llama-bf16",),
    ),
    Fault(
        id="loss-packed-cross-boundary",
        area="loss",
        status="historical",
        source="torchtune#2613",
        symptom="The end of a document is to predict the beginning of the next.",
        where="transformers.data.data_collator",
        before='                batch["labels"] += [separator_id] + input_ids[1:]\n',
        after='                batch["labels"] += input_ids\n',
    ),
)

TRAINING = (
    Fault(
        id="accum-mean-of-means",
        area="accumulation",
        status="historical",
        source="transformers#34191; torchtitan#2206; torchtune#1875",
        symptom="Short sequences weigh more.",
        where=TRAINER,
        before="        num_items_in_batch = self._get_num_items_in_batch(batch_samples, device)\n",
        after="        num_items_in_batch = None\n",
        subjects=("trainer",),
    ),
    Fault(
        id="accum-no-divide",
        area="accumulation",
        status="historical",
        source="nanoGPT#168; nanoGPT#206; stylegan3#184",
        symptom="Gradients as many times too large as there are micro-batches.",
        where=LOSS,
        before="        loss = loss / num_items_in_batch\n",
        after="        loss = loss / (target != ignore_index).sum()\n",
        subjects=("trainer",),
    ),
    Fault(
        id="accum-zero-grad-missing",
        area="accumulation",
        status="historical",
        source="DeepSpeed#7839",
        symptom="Gradients of all steps add up.",
        where=TRAINER,
        before="                    model.zero_grad()\n                    self.state.global_step += 1\n",
        after="                    self.state.global_step += 1\n",
        subjects=("trainer",),
    ),
    Fault(
        id="clip-generator-exhausted",
        area="clipping",
        status="historical",
        source="pytorch#148259; pytorch#151529",
        symptom="Nothing is clipped.",
        where=TRAINER,
        before="        return self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)\n",
        after=(
            "        parameters = model.parameters()\n"
            "        norm = self.accelerator.clip_grad_norm_(parameters, float('inf'))\n"
            "        self.accelerator.clip_grad_norm_(parameters, self.args.max_grad_norm)\n"
            "        return norm\n"
        ),
        subjects=("trainer",),
    ),
    Fault(
        id="metric-gradnorm-postclip",
        area="metrics",
        status="transposed",
        source="verl#2282",
        symptom="Spikes of the gradient are hidden.",
        where=TRAINER,
        before="        return self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)\n",
        after=(
            "        self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)\n"
            "        return self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)\n"
        ),
        subjects=("trainer",),
    ),
    Fault(
        id="opt-decay-on-norms",
        area="optimizer",
        status="historical",
        source="transformers#35927; DeepSpeedExamples#755; lit-llama#254",
        symptom="Norm gains shrink.",
        where=TRAINER,
        before="get_parameter_names(model, [nn.LayerNorm], forbidden_name_patterns)",
        after='get_parameter_names(model, [nn.LayerNorm], [r"bias"])',
        subjects=("trainer",),
    ),
    Fault(
        id="sched-cosine-rises",
        area="schedule",
        status="pattern",
        source="",
        symptom="The rate does not stay where it ends.",
        where="transformers.optimization",
        before=LINEAR,
        after=LINEAR.replace("max(0.0", "max(-1.0"),
        subjects=("trainer",),
    ),
    Fault(
        id="sched-not-checkpointed",
        area="schedule",
        status="historical",
        source="torchtitan#275; TorchEasyRec#664; lightly-train#301",
        symptom="The rate starts anew when a run is resumed.",
        where=TRAINER,
        before=(
            "                with warnings.catch_warnings(record=True) as caught_warnings:\n"
            "                    check_torch_load_is_safe()\n"
            "                    self.lr_scheduler.load_state_dict(\n"
            "                        torch.load(os.path.join(checkpoint, SCHEDULER_NAME), weights_only=True)\n"
            "                    )\n"
            "                reissue_pt_warnings(caught_warnings)\n\n"
            "    def _load_scaler"
        ),
        after="                reissue_pt_warnings([])\n\n    def _load_scaler",
        subjects=("trainer",),
    ),
    Fault(
        id="ckpt-dataloader-not-saved",
        area="checkpoint resume",
        status="historical",
        source="KempnerForge#51",
        symptom="Batches of an epoch's beginning are seen twice.",
        where=TRAINER,
        before="train_dataloader = skip_first_batches(train_dataloader, steps_trained_in_current_epoch)\n",
        after="pass\n",
        subjects=("trainer",),
    ),
    Fault(
        id="train-mode-lost-after-eval",
        area="checkpoint resume",
        status="pattern",
        source="",
        symptom="No dropout after the first evaluation.",
        where=TRAINER,
        before="            model.train()\n            if hasattr(self.optimizer",
        after="            if hasattr(self.optimizer",
        subjects=("trainer",),
    ),
)

ADAPTERS = (
    Fault(
        id="lora-scale-alpha-only",
        area="lora",
        status="historical",
        source="mlx-vlm#841; mlx-vlm#986",
        symptom="Updates as many times too large as the rank.",
        where=LORA,
        before=(
            "            self.lora_B[adapter_name].weight = torch.nn.Parameter(lora_B_params)\n\n"
            "        self.lora_bias[adapter_name] = lora_bias\n\n"
            "        if use_rslora:\n"
            "            self.scaling[adapter_name] = lora_alpha / math.sqrt(r)\n"
            "        else:\n"
            "            self.scaling[adapter_name] = lora_alpha / r\n"
        ),
        after=(
            "            self.lora_B[adapter_name].weight = torch.nn.Parameter(lora_B_params)\n\n"
            "        self.lora_bias[adapter_name] = lora_bias\n\n"
            "        self.scaling[adapter_name] = lora_alpha\n"
        ),
        subjects=("lora",),
    ),
    Fault(
        id="lora-merge-no-scale",
        area="lora",
        status="historical",
        source="FastVideo#870; MLX fuse",
        symptom="A merged model is not the one that was trained.",
        where=LORA,
        before="        output_tensor = transpose(weight_B @ weight_A, self.fan_in_fan_out) * self.scaling[adapter]\n",
        after="        output_tensor = transpose(weight_B @ weight_A, self.fan_in_fan_out)\n",
        subjects=("lora",),
    ),
    Fault(
        id="lora-double-merge",
        area="lora",
        status="transposed",
        source="espnet#5722; LoRA-Torch#10",
        symptom="A second merge adds the adapter again.",
        where=TUNERS,
        before="        adapter_names = [name for name in adapter_names if name not in merged_adapters]\n",
        after="",
        subjects=("lora",),
    ),
    Fault(
        id="lora-b-nonzero-init",
        area="lora",
        status="historical",
        source="peft#1884",
        symptom="The loss jumps where fine-tuning begins.",
        where=LORA,
        before="                nn.init.zeros_(self.lora_B[adapter_name].weight)\n                if self.lora_bias",
        after="                nn.init.normal_(self.lora_B[adapter_name].weight)\n                if self.lora_bias",
        subjects=("lora",),
    ),
    Fault(
        id="lora-dropout-not-passed",
        area="lora",
        status="historical",
        source="torchtune#995",
        symptom="The configured dropout has no effect.",
        where=LORA,
        before=(
            "                dropout = self.lora_dropout[active_adapter]\n"
            "                scaling = self.scaling[active_adapter]\n"
            "                x = self._cast_input_dtype(x, lora_A.weight.dtype)\n"
            "                if active_adapter not in self.lora_variant:  # vanilla LoRA\n"
            "                    result = result + lora_B(lora_A(dropout(x))) * scaling\n"
        ),
        after=(
            "                dropout = lambda value: value\n"
            "                scaling = self.scaling[active_adapter]\n"
            "                x = self._cast_input_dtype(x, lora_A.weight.dtype)\n"
            "                if active_adapter not in self.lora_variant:  # vanilla LoRA\n"
            "                    result = result + lora_B(lora_A(dropout(x))) * scaling\n"
        ),
        subjects=("lora-dropout",),
    ),
    Fault(
        id="lora-base-trainable",
        area="lora",
        status="historical",
        source="torchtitan#3456",
        symptom="Norms of the base drift, and the adapter fits no other copy of it.",
        where=TUNERS,
        before="            p.requires_grad = False\n\n        for active_adapter in self.active_adapters:\n",
        after="            p.requires_grad = p.dim() == 1\n\n        for active_adapter in self.active_adapters:\n",
        subjects=("lora",),
    ),
    Fault(
        id="lora-load-strict-false",
        area="lora",
        status="historical",
        source="torchtune#2537; peft#1678; peft#285",
        symptom="A loaded adapter is a new one.",
        where="peft.utils.save_and_load",
        before=(
            "    to_return = {tuner_cls._remove_adapter_name_from_key(k, adapter_name): v for k, v in"
            " to_return.items()}\n"
        ),
        after=(
            '    to_return = {"old." + tuner_cls._remove_adapter_name_from_key(k, adapter_name): v for k, v in'
            " to_return.items()}\n    state_dict_was_inferred = False\n"
        ),
        subjects=("lora",),
    ),
)

LITGPT = (
    Fault(
        id="litgpt-rope-theta-not-passed",
        area="rope",
        status="historical",
        source="litgpt#2218",
        symptom="The configured base has no effect.",
        where=GPT,
        before="            base=self.config.rope_base,\n",
        after="",
        subjects=("litgpt",),
    ),
    Fault(
        id="litgpt-rope-cache-offset-missing",
        area="rope",
        status="historical",
        source="thunlp/Seq1F1B#6",
        symptom="Each decoded token stands at position 0.",
        where=GPT,
        before=(
            "            cos = batched_index_select(self.cos, 0, input_pos)\n"
            "            sin = batched_index_select(self.sin, 0, input_pos)\n"
        ),
        after=(
            "            cos = batched_index_select(self.cos, 0, input_pos - input_pos.min())\n"
            "            sin = batched_index_select(self.sin, 0, input_pos - input_pos.min())\n"
        ),
        subjects=("litgpt",),
    ),
    Fault(
        id="litgpt-init-not-applied",
        area="init",
        status="historical",
        source="litgpt#1162",
        symptom="A worse start.",
        where="litgpt.pretrain",
        before="    if not isinstance(fabric.strategy, FSDPStrategy):\n",
        after="    if isinstance(fabric.strategy, FSDPStrategy):\n",
        subjects=("litgpt",),
    ),
    Fault(
        id="litgpt-loss-mean-includes-masked",
        area="loss",
        status="historical",
        source="litgpt#751",
        symptom="The loss depends on how much padding there is.",
        where="litgpt.utils",
        before=(
            "    #   `x.maximum(torch.ones_like(x))` pattern we avoid a cudaStreamSynchronize.\n"
            "    return torch.cat(loss_chunks).sum() / non_masked_elems.maximum(torch.ones_like(non_masked_elems))\n"
        ),
        after="    return torch.cat(loss_chunks).mean()\n",
        subjects=("litgpt",),
    ),
    Fault(
        id="litgpt-loss-chunk-tail-dropped",
        area="loss",
        status="transposed",
        source="litgpt#751",
        symptom="Some tokens are never learned.",
        where="litgpt.utils",
        before="    logit_chunks = logits.split(chunk_size)\n    target_chunks = targets.split(chunk_size)\n",
        after=(
            "    whole = max(1, len(logits) // chunk_size)\n"
            "    logit_chunks = logits.split(chunk_size)[:whole]\n"
            "    target_chunks = targets.split(chunk_size)[:whole]\n"
        ),
        subjects=("litgpt",),
    ),
    Fault(
        id="litgpt-attn-gqa-repeat-order",
        area="attention mask",
        status="historical",
        source="onnx#7274; wenet-e2e/west#121",
        symptom="Query heads read another group's keys.",
        where=GPT,
        before="            q_per_kv = n_head // n_query_groups\n            k = k.repeat_interleave(q_per_kv, dim=1)",
        after="            q_per_kv = n_head // n_query_groups\n            k = k.repeat(1, q_per_kv, 1, 1)",
        subjects=("litgpt",),
    ),
    Fault(
        id="litgpt-block-residual-twice",
        area="block",
        status="historical",
        source="nanotron 4bb1a716",
        symptom="A slightly worse loss.",
        where=GPT,
        before="            x = attention_output + x\n            x_normed = self.norm_2(x)\n",
        after="            x = attention_output + x + x\n            x_normed = self.norm_2(x)\n",
        subjects=("litgpt",),
    ),
    Fault(
        id="litgpt-norm-eps-hardcoded",
        area="norm",
        status="historical",
        source="lit-llama#339",
        symptom="A small loss of quality with other people's weights.",
        where="litgpt.model",
        before="                ln_f=config.norm_class(config.n_embd, eps=config.norm_eps),\n",
        after="                ln_f=config.norm_class(config.n_embd),\n",
        subjects=("litgpt",),
    ),
    Fault(
        id="litgpt-lora-merge-no-scale",
        area="lora",
        status="historical",
        source="FastVideo#870; MLX fuse",
        symptom="A merged model is not the one that was trained.",
        where="litgpt.lora",
        before="        return (self.lora_B @ self.lora_A) * self.scaling\n",
        after="        return self.lora_B @ self.lora_A\n",
        subjects=("litgpt-lora",),
    ),
    Fault(
        id="litgpt-lora-scale-alpha-only",
        area="lora",
        status="historical",
        source="mlx-vlm#841; mlx-vlm#986",
        symptom="Updates as many times too large as the rank.",
        where="litgpt.lora",
        before=(
            "            self.lora_B = nn.Parameter(torch.empty((out_features, r)))\n"
            "            self.scaling = self.lora_alpha / self.r\n"
        ),
        after=(
            "            self.lora_B = nn.Parameter(torch.empty((out_features, r)))\n"
            "            self.scaling = self.lora_alpha\n"
        ),
        subjects=("litgpt-lora",),
    ),
    Fault(
        id="litgpt-lora-double-merge",
        area="lora",
        status="transposed",
        source="espnet#5722; LoRA-Torch#10",
        symptom="A second merge adds the adapter again.",
        where="litgpt.lora",
        before="        if self.r > 0 and not self.merged:\n",
        after="        if self.r > 0:\n",
        subjects=("litgpt-lora",),
    ),
    Fault(
        id="litgpt-lora-b-nonzero-init",
        area="lora",
        status="historical",
        source="peft#1884",
        symptom="The loss jumps where fine-tuning begins.",
        where="litgpt.lora",
        before="            nn.init.zeros_(self.lora_B)\n\n    def get_lora_AB",
        after="            nn.init.normal_(self.lora_B)\n\n    def get_lora_AB",
        subjects=("litgpt-lora",),
    ),
)

FAULTS = {"third_party": TRANSFORMERS + TRAINING + ADAPTERS, "litgpt": LITGPT}
