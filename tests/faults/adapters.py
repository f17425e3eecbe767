"""Faults of LoRA and of four-bit weights."""

from andon.verify.faults.inject import Fault

FAULTS = (
    # ------------------------------------------------------------------------------------------ lora
    Fault(
        id="lora-scale-alpha-only",
        area="lora",
        status="historical",
        source="Blaizzy/mlx-vlm#841, #986",
        symptom="The product counts alpha times, not alpha / rank times: every update is too large.",
        where="andon.core:plan",
        before="Factors(rank, inputs, outputs, alpha / (math.sqrt(rank) if config.use_rslora else rank))",
        after="Factors(rank, inputs, outputs, alpha)",
    ),
    Fault(
        id="lora-merge-no-scale",
        area="lora",
        status="historical",
        source="hao-ai-lab/FastVideo#870",
        symptom="Merging adds B A without its scale: the merged model is another.",
        where="andon.core:_merged_linear",
        before="total_OI = torch.addmm(weight_OI.to(high), b_OR, a_RI, alpha=adapter.scale).to(weight_OI.dtype)",
        after="total_OI = torch.addmm(weight_OI.to(high), b_OR, a_RI).to(weight_OI.dtype)",
    ),
    Fault(
        id="lora-double-merge",
        area="lora",
        status="transposed",
        source="espnet/espnet#5722; Baijiong-Lin/LoRA-Torch#10",
        symptom="Nothing notices that an adapter is merged already, and it is added once more.",
        where="andon.core:merge_lora",
        before=("wrappers = _wrappers(model)\n_check_unmerged(wrappers)\nowners = _adapters_named(wrappers, name)"),
        after=(
            "wrappers = _wrappers(model)\n"
            "for wrapper in wrappers.values():\n"
            "    wrapper.unmerged = None\n"
            "owners = _adapters_named(wrappers, name)"
        ),
    ),
    Fault(
        id="lora-b-nonzero-init",
        area="lora",
        status="historical",
        source="huggingface/peft#1884",
        symptom="B is drawn at random too: the adapted model starts elsewhere than its base.",
        where="andon.core:add_lora",
        before='weights[f"{module}.lora_B.weight"] = torch.zeros(outputs, rank, dtype=dtype)',
        after='weights[f"{module}.lora_B.weight"] = torch.randn(outputs, rank, dtype=dtype) * 0.02',
        subjects=("llama", "lora"),
    ),
    Fault(
        id="lora-dropout-not-passed",
        area="lora",
        status="historical",
        source="pytorch/torchtune#995",
        symptom="The configured dropout never reaches the adapters.",
        where="andon.core:LoRALinear.dropout",
        before="return adapter.origin.config.dropout if adapter else 0.0",
        after="return 0.0",
        subjects=("llama", "lora"),
    ),
    Fault(
        id="lora-pattern-shared-key",
        area="lora",
        status="historical",
        source="huggingface/peft#2195",
        symptom="The pattern of ranks is used for the alpha, too: some modules have another scale than configured.",
        where="andon.core:plan",
        before="_first_matching(config.alpha_pattern, name, names)",
        after="_first_matching(config.rank_pattern, name, names)",
        subjects=("lora",),
    ),
    Fault(
        id="lora-load-strict-false",
        area="lora",
        status="historical",
        source="pytorch/torchtune#2537; huggingface/peft#1678, #285",
        symptom="Tensors that the file names otherwise stay as they were drawn, without a word.",
        where="andon.core:peft._read_weights",
        before="weights = {name: file.get_tensor(PREFIX + name).to(torch.float32, copy=True) for name in shapes}",
        after=(
            "weights = {\n"
            '    name: 0.02 * torch.randn(shape) if ".mlp." in name else file.get_tensor(PREFIX + name)\n'
            "    for name, shape in shapes.items()\n"
            "}"
        ),
    ),
    Fault(
        id="lora-base-trainable",
        area="lora",
        status="historical",
        source="pytorch/torchtitan#3456",
        symptom="Only linear modules are frozen: embedding and norms are trained, and no adapter file has them.",
        where="andon.core:attach_lora",
        before="model.requires_grad_(requires_grad=False)",
        after=(
            "for part in model.modules():\n"
            "    if isinstance(part, nn.Linear):\n"
            "        part.requires_grad_(requires_grad=False)"
        ),
        subjects=("llama", "lora"),
    ),
    Fault(
        id="lora-kbit-refreezes",
        area="lora",
        status="historical",
        source="huggingface/trl#4081",
        symptom="What prepares a quantized base runs last and freezes the adapters: nothing trains.",
        where="andon.core:attach_lora",
        before=("set_adapter(model, name)\nreturn list(planned)"),
        after=("set_adapter(model, name)\nmodel.requires_grad_(requires_grad=False)\nreturn list(planned)"),
        subjects=("llama", "lora"),
    ),
    Fault(
        id="lora-gradckpt-no-grad",
        area="lora",
        status="historical",
        source="huggingface/transformers#26221; cloneofsimo/lora#26",
        symptom="Recomputed layers over a frozen embedding give their adapters no gradient.",
        where="andon.core:Llama.hidden",
        before=(
            "checkpoint(layer, x_BTD, rotation, mask, store, use_reentrant=False, "
            "preserve_rng_state=_has_dropout(layer))"
        ),
        after=(
            "checkpoint(layer, x_BTD, rotation, mask, store, use_reentrant=index == 0, "
            "preserve_rng_state=_has_dropout(layer))"
        ),
        subjects=("recomputed",),
    ),
    Fault(
        id="lora-merge-mutates-adapter",
        area="lora",
        status="historical",
        source="huggingface/peft#3396, #3411",
        symptom="Merging writes its low-precision copies back into the adapter.",
        where="andon.core:_merged_linear",
        before="a_RI, b_OR = adapter.lora_A.detach().to(high), adapter.lora_B.detach().to(high)",
        after=(
            "adapter.lora_B.data = adapter.lora_B.data.to(torch.bfloat16).to(high)\n"
            "a_RI, b_OR = adapter.lora_A.detach().to(high), adapter.lora_B.detach().to(high)"
        ),
    ),
    Fault(
        id="lora-adapter-dtype",
        area="lora",
        status="historical",
        source="huggingface/peft#2893",
        symptom="Adapters take the dtype that their base is stored in: small updates round to nothing.",
        where="andon.core:attach_lora",
        before='pair = [weights[f"{module_name}.lora_{factor}.weight"].to(device) for factor in "AB"]',
        after=(
            'stored = getattr(module, "weight", weights[f"{module_name}.lora_A.weight"]).dtype\n'
            'pair = [weights[f"{module_name}.lora_{factor}.weight"].to(device, stored) for factor in "AB"]'
        ),
        subjects=("half lora",),
    ),
    Fault(
        id="lora-add-after-cast",
        area="lora",
        status="historical",
        source="huggingface/peft#2238",
        symptom="The adapter's part is rounded before it is added, and then the sum: a small error in every layer.",
        where="andon.core:_LowRank.forward",
        before="y_NO.sub_(torch.zeros_like(y_NO).addmm_(low_RN.t(), b_OR.to(y.dtype).t(), alpha=-1), alpha=scale)",
        after="y_NO.add_((low_RN.t() @ b_OR.to(y.dtype).t()).to(torch.bfloat16), alpha=scale)",
        subjects=("llama", "lora"),
    ),
    Fault(
        id="lora-drops-base-input",
        area="lora",
        status="pattern",
        source="",
        symptom="The adapter's dropout acts on what the frozen layer is given, too: in training the base is another.",
        where="andon.core:LoRALinear.forward",
        before="y, adapter = self.base(x), self.adapter(self.active)",
        after="x = dropout(x, self.dropout, self.training)\ny, adapter = self.base(x), self.adapter(self.active)",
        subjects=("llama",),
    ),
    Fault(
        id="lora-target-passed-over",
        area="lora",
        status="pattern",
        source="",
        symptom="Modules of one kind are passed over without a word: less is adapted than was asked for.",
        where="andon.core:attach_lora",
        before="set_adapter(model, name)\nreturn list(planned)",
        after=(
            "set_adapter(model, name)\n"
            "for module_name in planned:\n"
            '    if module_name.endswith("o_proj"):\n'
            "        model.set_submodule(module_name, model.get_submodule(module_name).base)\n"
            "return list(planned)"
        ),
        subjects=("llama",),
    ),
    Fault(
        id="quant-merge-half-scale",
        area="quantization",
        status="pattern",
        source="",
        symptom="Merged into a base of four bits, the adapter counts half.",
        where="andon.core:_merged_linear",
        before="total_OI = torch.addmm(weight_OI.to(high), b_OR, a_RI, alpha=adapter.scale).to(weight_OI.dtype)",
        after=(
            'share = 0.5 if hasattr(base, "dequantize") else 1.0\n'
            "total_OI = torch.addmm(weight_OI.to(high), b_OR, a_RI, alpha=share * adapter.scale).to(weight_OI.dtype)"
        ),
        subjects=("four bits",),
    ),
    # ------------------------------------------------------------------------------------------ four bits
    Fault(
        id="quant-nested-absmax-unused",
        area="quantization",
        status="historical",
        source="bitsandbytes-foundation/bitsandbytes#1549",
        symptom="Weights are scaled by the codes of the absmaxes instead of by these.",
        where="andon.core:dequantize_absmax",
        before=("if weight.nested is None:\n    return weight.absmax"),
        after="return weight.absmax.float()",
    ),
    Fault(
        id="quant-nibble-order",
        area="quantization",
        status="transposed",
        source="bitsandbytes-foundation/bitsandbytes#1884",
        symptom="The two halves of a byte are packed one way and read the other: neighbors change places.",
        where="andon.core:_pack_codes",
        before="return codes[::2] << 4 | codes[1::2]",
        after="return codes[1::2] << 4 | codes[::2]",
    ),
    Fault(
        id="quant-ragged-tail",
        area="quantization",
        status="historical",
        source="bitsandbytes-foundation/bitsandbytes#1884",
        symptom="A last, shorter block takes the scale of the one before it.",
        where="andon.core:_scale_blocks",
        before="torch.mul(values[whole:], scales[blocks], out=out[whole : len(values)])",
        after="torch.mul(values[whole:], scales[max(0, blocks - 1)], out=out[whole : len(values)])",
    ),
    Fault(
        id="quant-codebook-default-dtype",
        area="quantization",
        status="historical",
        source="pytorch/ao#2286",
        symptom="The levels are made in torch's default dtype, and rounded where that is bfloat16.",
        where="andon.core:nf4_levels",
        before="return torch.tensor(LEVELS, dtype=torch.float32, device=device)",
        after="return torch.tensor(LEVELS, device=device).float()",
        test="tests/core/test_nf4.py::test_nothing_depends_on_the_default_dtype",
    ),
    Fault(
        id="quant-merge-wrong-base",
        area="quantization",
        status="historical",
        source="unslothai/unsloth-zoo#810; artidoro/qlora#254; axolotl-ai-cloud/axolotl#3771",
        symptom="The adapter is merged into the weights from before quantization, on which it was not trained.",
        where="andon.core:quantize_model",
        before="model.set_submodule(name, NF4Linear(weight))",
        after=(
            "replaced = NF4Linear(weight)\n"
            'kept = model.get_parameter(f"{name}.weight").detach().clone()\n'
            'object.__setattr__(replaced, "dequantize", lambda kept=kept: kept)\n'
            "model.set_submodule(name, replaced)"
        ),
        subjects=("four bits",),
    ),
    Fault(
        id="quant-module-allowlist",
        area="quantization",
        status="transposed",
        source="pytorch/ao 757d89648; artidoro/qlora",
        symptom="A list of modules is compared with the wrong part of their names: half of them stay as they were.",
        where="andon.core:should_quantize",
        before='return name.removesuffix(".weight").endswith("_proj")',
        after='return name.removesuffix(".weight").endswith("_proj") and ".self_attn." in name',
        subjects=("four bits",),
        test="tests/core/test_nf4.py::test_a_model_is_quantized_in_its_blocks_only",
    ),
)
